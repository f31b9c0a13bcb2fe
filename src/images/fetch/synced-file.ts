import { close, fdatasync, fsync } from "node:fs";
import { promisify } from "node:util";

const closeFile = promisify(close);
const syncData = promisify(fdatasync);
const syncAll = promisify(fsync);

/** A descriptor whose data goes to the disk while more of it is written, and that is closed once the disk is done with it. */
export class SyncedFile {
  readonly fd: number;
  /** Where false, the system writes the data when it likes. */
  readonly #durable: boolean;
  /** What the disk is doing for this file. It never rejects. */
  #busy: Promise<void> | null = null;
  #failure: { readonly error: unknown } | null = null;

  constructor(fd: number, durable = true) {
    this.fd = fd;
    this.#durable = durable;
  }

  /** Throws what went wrong behind the writer's back. */
  check(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** Lets what is written so far go to the disk, and tells when it is there. False: the disk is still busy with the last call. */
  syncBehind(done: () => void): boolean {
    if (!this.#durable || this.#busy !== null) return false;
    this.#start(syncData(this.fd).then(done));
    return true;
  }

  /** Makes everything durable. */
  async sync(): Promise<void> {
    await this.#busy;
    this.check();
    if (!this.#durable) return;
    this.#start(syncAll(this.fd));
    await this.#busy;
    this.check();
  }

  #start(work: Promise<void>): void {
    this.#busy = work
      .catch((error: unknown) => {
        this.#failure = { error };
      })
      .finally(() => {
        this.#busy = null;
      });
  }

  /**
   * Ends the use of the descriptor. Whoever gives up does not wait for the disk: if it is busy, the descriptor is closed
   * behind it. Nothing is written through it any more, so another one of the same file does not mind.
   */
  async close(): Promise<void> {
    if (this.#busy === null) await closeFile(this.fd);
    else void this.#busy.then(() => closeFile(this.fd)).catch(() => undefined); // a failure is nobody's any more
  }
}
