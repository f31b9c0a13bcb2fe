import { CommandExecutionUnavailableError, GuestFileError } from "../errors.js";
import { printableNote } from "../printable.js";
import type { Channel, Link } from "./connection.js";
import { FRAME_COST, FrameType, violation } from "./frames.js";
import { errnoMeaning, errnoName } from "./names.js";
import { PayloadReader } from "./payload.js";

export interface CallRequest {
  /** What is done, in one or two words: it stands in the error. */
  readonly operation: string;
  /** The guest's path that it is done to; empty for what has none. */
  readonly path: string;
  readonly signal?: AbortSignal | undefined;
  /** Credit that the request gave the guest for data in its answer, which then goes to `onData`. */
  readonly credit?: number | undefined;
  readonly onData?: ((bytes: Buffer) => void) | undefined;
  /** A data frame has begun, whose own cost is to be given back as well. */
  readonly onFrame?: (() => void) | undefined;
  /** The guest takes data up to this cost from now on. */
  readonly onCredit?: ((cost: number) => void) | undefined;
}

/** A request with one answer, perhaps after data in either direction. */
export class Call implements Channel {
  /** The reply's payload, copied. Rejects with a GuestFileError, the signal's reason, or what ended the connection. */
  readonly result: Promise<Buffer>;
  readonly #link: Link;
  /** Once it is settled only what an error is told with: whatever the rest refers to must not outlive the answer. */
  #request: CallRequest;
  readonly #number: number;
  #credit: number;
  #settled = false;
  #resolve: (reply: Buffer) => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;
  readonly #onAbort = (): void => this.cancel(this.#request.signal?.reason);

  constructor(link: Link, payload: Buffer, request: CallRequest) {
    this.#link = link;
    this.#request = request;
    this.#credit = request.credit ?? 0;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.result.catch(() => undefined); // whoever cares awaits it; a stream reports it in its own way
    request.signal?.throwIfAborted();
    this.#number = link.open(this);
    request.signal?.addEventListener("abort", this.#onAbort, { once: true });
    link.send(FrameType.call, this.#number, 0, payload);
  }

  /** Gives the answer up at once. The guest's side ends when the cancel arrives there. */
  cancel(reason: unknown): void {
    if (this.#settled) return;
    this.#link.send(FrameType.cancel, this.#number, 0);
    this.#link.forsake(this.#number);
    this.#settle(() => this.#reject(reason));
  }

  /** Sends a piece of the request's data; `sent` is called when the buffer may be used again. */
  send(bytes: Uint8Array, sent: () => void): void {
    this.#link.send(FrameType.data, this.#number, 0, bytes, sent);
  }

  sendEnd(): void {
    this.#link.send(FrameType.end, this.#number, 0);
  }

  grant(cost: number): void {
    if (this.#settled) return;
    this.#credit += cost;
    const payload = Buffer.alloc(4);
    payload.writeUInt32LE(cost);
    this.#link.send(FrameType.credit, this.#number, 1, payload);
  }

  charge(stream: number, length: number): void {
    if (stream !== 1) throw violation("data on a stream that isn't open");
    this.#credit -= length + FRAME_COST;
    if (this.#credit < 0) throw violation("data without credit");
    this.#request.onFrame?.();
  }

  data(_stream: number, bytes: Buffer): void {
    if (!this.#settled) this.#request.onData?.(bytes);
  }

  frame(type: number, _stream: number, payload: Buffer): boolean {
    switch (type) {
      case FrameType.reply:
        // Decoders of small replies read it later, when the buffer it lies in may have been used again.
        this.#settle(() => this.#resolve(Buffer.from(payload)));
        return true;
      case FrameType.fail:
        this.#fail(new PayloadReader(payload));
        return true;
      case FrameType.end:
        return false;
      case FrameType.started: {
        const reader = new PayloadReader(payload);
        reader.u32();
        this.#request.onCredit?.(reader.u32());
        return false;
      }
      case FrameType.credit:
        this.#request.onCredit?.(new PayloadReader(payload).u32());
        return false;
      default:
        throw violation("a frame that does not belong to a call");
    }
  }

  lost(error: Error): void {
    this.#settle(() => this.#reject(error));
  }

  #fail(reader: PayloadReader): void {
    const errno = errnoName(reader.u32());
    const stage = printableNote(reader.string());
    const { operation, path } = this.#request;
    const error =
      path === ""
        ? new CommandExecutionUnavailableError(
            `The guest could not ${operation}${stage === "" ? "" : ` (${stage})`}: ${errnoMeaning(errno)}.`,
            { details: { errno, stage }, hint: "Look at the machine's console." },
          )
        : new GuestFileError(errno, operation, path);
    this.#settle(() => this.#reject(error));
  }

  #settle(outcome: () => void): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#request.signal?.removeEventListener("abort", this.#onAbort);
    outcome();
    // The guest may take as long as it likes to confirm a cancel, and until then this stays known by its number.
    this.#request = { operation: this.#request.operation, path: this.#request.path };
    this.#resolve = this.#reject = () => undefined;
  }
}
