import { CommandExecutionUnavailableError } from "../errors.js";

/* The format is that of docs/protocol.md; everything here is pure. */

export const HEADER_SIZE = 12;
export const MAX_PAYLOAD = 256 * 1024;
/** What a data frame costs in credit besides its bytes, so that many tiny frames can't outgrow the memory that credit stands for. */
export const FRAME_COST = 64;

export const FrameType = {
  call: 1,
  exec: 2,
  data: 3,
  end: 4,
  credit: 5,
  signal: 6,
  resize: 7,
  cancel: 8,
  reply: 16,
  fail: 17,
  started: 18,
  exit: 19,
  error: 20,
} as const;

/** What the guest sent breaks the protocol: the connection can't be used any more, as nothing after it can be trusted. */
export function violation(what: string): CommandExecutionUnavailableError {
  return new CommandExecutionUnavailableError(`The guest broke the protocol: ${what}.`, {
    hint: "The guest is damaged or hostile: delete the machine and create another.",
    details: { reason: "protocol" },
  });
}

export function encodeHeader(type: number, channel: number, stream: number, length: number): Buffer {
  const header = Buffer.allocUnsafe(HEADER_SIZE);
  header.writeUInt32LE(length, 0);
  header.writeUInt32LE(channel, 4);
  header.writeUInt32LE(type | (stream << 8), 8);
  return header;
}

export interface FrameSink {
  /** A data frame begins. Its bytes follow in one or more `data` calls. */
  dataBegins(channel: number, stream: number, length: number): void;
  data(channel: number, stream: number, bytes: Buffer): void;
  /** Any other frame, whole. `payload` is only valid during the call. */
  frame(type: number, channel: number, stream: number, payload: Buffer): void;
}

/** A piece of a data frame smaller than this waits for more of its frame, so that pieces are never many. */
const SMALLEST_PIECE = 16 * 1024;

const NOTHING = Buffer.alloc(0);

/**
 * A small piece would keep the whole chunk that it came in alive for as long as its reader keeps it, and so would a copy from
 * Node's shared pool: a guest could make a few kilobytes of credit stand for megabytes.
 */
function copyOf(piece: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(piece.length);
  piece.copy(copy);
  return copy;
}

const GUEST_TYPES: ReadonlySet<number> = new Set([
  FrameType.data,
  FrameType.end,
  FrameType.credit,
  FrameType.reply,
  FrameType.fail,
  FrameType.started,
  FrameType.exit,
  FrameType.error,
]);

/**
 * Cuts what the guest sends into frames, whatever pieces it comes in. Holds at most one frame's worth of bytes. Throws a
 * violation on anything that can't be a frame, and whatever the sink throws; it must not be used after that.
 */
export class FrameDecoder {
  readonly #sink: FrameSink;
  /** Bytes of a header, of a whole payload or of a data piece that are still incomplete. */
  #held: Buffer = NOTHING;
  #heldLength = 0;
  #inPayload = false;
  #type = 0;
  #channel = 0;
  #stream = 0;
  /** Payload bytes of the current frame that have not been handed over. */
  #left = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (!this.#inPayload) at = this.#header(chunk, at);
      else if (this.#type === FrameType.data) at = this.#data(chunk, at);
      else at = this.#payload(chunk, at);
    }
  }

  #header(chunk: Buffer, at: number): number {
    if (this.#heldLength === 0 && chunk.length - at >= HEADER_SIZE) {
      this.#begin(chunk, at);
      return at + HEADER_SIZE;
    }
    const end = this.#hold(chunk, at, HEADER_SIZE);
    if (this.#heldLength === HEADER_SIZE) {
      const header = this.#held;
      this.#heldLength = 0;
      this.#begin(header, 0);
    }
    return end;
  }

  #begin(bytes: Buffer, at: number): void {
    const length = bytes.readUInt32LE(at);
    this.#channel = bytes.readUInt32LE(at + 4);
    this.#type = bytes.readUInt8(at + 8);
    this.#stream = bytes.readUInt8(at + 9);
    if (length > MAX_PAYLOAD) throw violation(`a frame of ${length} bytes, where ${MAX_PAYLOAD} are the most`);
    if (!GUEST_TYPES.has(this.#type) || bytes.readUInt16LE(at + 10) !== 0) throw violation("an unknown kind of frame");
    this.#left = length;
    if (this.#type === FrameType.data) {
      if (length === 0) throw violation("an empty data frame");
      this.#sink.dataBegins(this.#channel, this.#stream, length);
    }
    this.#inPayload = true;
    if (length === 0) this.#finish(NOTHING);
  }

  #payload(chunk: Buffer, at: number): number {
    if (this.#heldLength === 0 && chunk.length - at >= this.#left) {
      const end = at + this.#left;
      this.#finish(chunk.subarray(at, end));
      return end;
    }
    const length = this.#left;
    const end = this.#hold(chunk, at, length);
    if (this.#heldLength === length) {
      const payload = this.#held.subarray(0, length);
      this.#heldLength = 0;
      this.#finish(payload);
    }
    return end;
  }

  #finish(payload: Buffer): void {
    this.#inPayload = false;
    this.#sink.frame(this.#type, this.#channel, this.#stream, payload);
  }

  #data(chunk: Buffer, at: number): number {
    const available = Math.min(chunk.length - at, this.#left);
    if (this.#heldLength === 0 && (available === this.#left || available >= SMALLEST_PIECE)) {
      const piece = chunk.subarray(at, at + available);
      this.#hand(piece.length * 4 < chunk.length ? copyOf(piece) : piece);
      return at + available;
    }
    const wanted = Math.min(this.#left, SMALLEST_PIECE);
    if (this.#heldLength === 0) this.#held = NOTHING; // no larger than the piece, as its reader may keep it
    const end = this.#hold(chunk, at, wanted);
    if (this.#heldLength === wanted) {
      const piece = this.#held.subarray(0, wanted);
      this.#held = NOTHING; // it belongs to the reader from here on
      this.#heldLength = 0;
      this.#hand(piece);
    }
    return end;
  }

  #hand(piece: Buffer): void {
    this.#left -= piece.length;
    if (this.#left === 0) this.#inPayload = false;
    this.#sink.data(this.#channel, this.#stream, piece);
  }

  /** Moves bytes from the chunk to what is held, up to `wanted` in all. Gives where the rest of the chunk begins. */
  #hold(chunk: Buffer, at: number, wanted: number): number {
    if (this.#held.length < wanted) {
      const larger = Buffer.allocUnsafeSlow(wanted);
      this.#held.copy(larger, 0, 0, this.#heldLength);
      this.#held = larger;
    }
    const end = Math.min(chunk.length, at + wanted - this.#heldLength);
    this.#heldLength += chunk.copy(this.#held, this.#heldLength, at, end);
    return end;
  }
}
