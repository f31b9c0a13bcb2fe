import { Readable, Writable } from "node:stream";

/** Credit given to the guest at the start of an output stream: the most that can lie unread on this side. */
export const OUTPUT_WINDOW = 512 * 1024;

/** What the guest sends on one stream. Credit goes back only as it is read, so a slow reader slows the guest. */
export class OutputStream extends Readable {
  readonly #grant: (cost: number) => void;
  readonly #abandon: () => void;
  #owed = 0;
  #ended = false;

  /** `grant` returns credit to the guest; `abandon` tells it that nobody reads any more. */
  constructor(grant: (cost: number) => void, abandon: () => void) {
    super({ highWaterMark: 64 * 1024 });
    this.#grant = grant;
    this.#abandon = abandon;
    // The cause is also what the owner's promise rejects with: a stream that nobody listens to must not end the program.
    this.on("error", () => undefined);
  }

  /** Credit to give back with what is read next. */
  owe(cost: number): void {
    this.#owed += cost;
  }

  deliver(bytes: Buffer): void {
    if (this.destroyed || this.#ended) return;
    this.#owed += bytes.length;
    if (this.push(bytes)) this.#settle();
  }

  /** No more comes. */
  finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.push(null);
  }

  override _read(): void {
    this.#settle();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    if (!this.#ended) this.#abandon();
    this.#ended = true;
    callback(error);
  }

  /** In few, large portions: three quarters of the window are still open when a portion is sent. */
  #settle(): void {
    if (this.#ended || this.#owed < OUTPUT_WINDOW / 4) return;
    const owed = this.#owed;
    this.#owed = 0;
    this.#grant(owed);
  }
}

interface Pending {
  readonly chunk: Uint8Array;
  readonly done: (error?: Error | null) => void;
}

export interface InputTarget {
  /** Sends at most one frame's worth; `sent` is called when the bytes may be overwritten. */
  send(bytes: Uint8Array, sent: () => void): void;
  end(done: (error?: Error | null) => void): void;
  abandon(error: Error | null): void;
}

const LARGEST_PIECE = 128 * 1024;

/** What goes to the guest on one stream, as its credit allows. */
export class InputStream extends Writable {
  readonly #target: InputTarget;
  readonly #frameCost: number;
  #credit = 0;
  #pending: Pending | null = null;
  #offset = 0;
  #closedByGuest = false;

  constructor(target: InputTarget, frameCost: number) {
    super({ highWaterMark: 64 * 1024, decodeStrings: true });
    this.#target = target;
    this.#frameCost = frameCost;
    this.on("error", () => undefined); // as for output: the owner's promise carries it
  }

  credit(cost: number): void {
    // More than this can't be owed to us: it only keeps a forged sum from losing precision.
    this.#credit = Math.min(this.#credit + cost, 0xffff_ffff);
    this.#move();
  }

  /** The other side takes no more; what is written from now on is dropped, as a closed pipe would. */
  closedByGuest(): void {
    this.#closedByGuest = true;
    const pending = this.#pending;
    this.#pending = null;
    pending?.done();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#closedByGuest) {
      done();
      return;
    }
    this.#pending = { chunk, done };
    this.#offset = 0;
    this.#move();
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#closedByGuest) done();
    else this.#target.end(done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#pending = null;
    if (!this.writableFinished && !this.#closedByGuest) this.#target.abandon(error);
    done(error);
  }

  #move(): void {
    while (this.#pending !== null) {
      const { chunk, done } = this.#pending;
      const left = chunk.length - this.#offset;
      if (left === 0) {
        this.#pending = null;
        done();
        return;
      }
      const length = Math.min(left, this.#credit - this.#frameCost, LARGEST_PIECE);
      // A trickle of tiny frames costs more than it moves: wait for a decent amount of credit.
      if (length <= 0 || (length < left && length < 4096)) return;
      this.#credit -= length + this.#frameCost;
      const piece = chunk.subarray(this.#offset, this.#offset + length);
      this.#offset += length;
      if (length < left) {
        this.#target.send(piece, () => undefined);
      } else {
        // The last piece leaves after the others, so the whole chunk is free when it has left.
        this.#pending = null;
        this.#target.send(piece, done);
      }
    }
  }
}
