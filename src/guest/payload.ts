import { ValidationError } from "../errors.js";
import { MAX_PAYLOAD, violation } from "./frames.js";

/** Builds a payload: little-endian numbers; strings as length, UTF-8 and a NUL; bytes as length and content. */
export class PayloadWriter {
  #buffer = Buffer.allocUnsafe(256);
  #used = 0;

  u8(value: number): this {
    this.#used = this.#room(1).writeUInt8(value, this.#used);
    return this;
  }

  u16(value: number): this {
    this.#used = this.#room(2).writeUInt16LE(value, this.#used);
    return this;
  }

  u32(value: number): this {
    this.#used = this.#room(4).writeUInt32LE(value, this.#used);
    return this;
  }

  u64(value: bigint): this {
    this.#used = this.#room(8).writeBigUInt64LE(BigInt.asUintN(64, value), this.#used);
    return this;
  }

  bytes(value: Uint8Array): this {
    this.u32(value.length);
    this.#room(value.length).set(value, this.#used);
    this.#used += value.length;
    return this;
  }

  /** @throws ValidationError for a NUL byte: no path, argument or variable can hold one. */
  string(value: string, what: string): this {
    if (value.includes("\0")) throw new ValidationError(`${what} holds a NUL byte: ${JSON.stringify(value)}.`);
    return this.bytes(Buffer.from(value, "utf8")).u8(0);
  }

  /** @throws ValidationError when it is larger than a frame may be. */
  finish(what: string): Buffer {
    if (this.#used > MAX_PAYLOAD) {
      throw new ValidationError(`${what} is too large: ${this.#used} bytes, where ${MAX_PAYLOAD} are the most.`, {
        hint: "Put large contents into a file in the guest, or send them through stdin.",
      });
    }
    return this.#buffer.subarray(0, this.#used);
  }

  #room(bytes: number): Buffer {
    if (this.#used + bytes > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#used + bytes, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, this.#used);
      this.#buffer = larger;
    }
    return this.#buffer;
  }
}

/** Reads what the guest sent. Every read is bounds-checked; what is too short is a violation. */
export class PayloadReader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  get left(): number {
    return this.#buffer.length - this.#at;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1));
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4));
  }

  u64(): bigint {
    return this.#buffer.readBigUInt64LE(this.#take(8));
  }

  string(): string {
    const length = this.u32();
    const at = this.#take(length);
    if (this.u8() !== 0) throw violation("a string without its end");
    return this.#buffer.toString("utf8", at, at + length);
  }

  #take(bytes: number): number {
    const at = this.#at;
    if (bytes > this.left) throw violation("a frame that ends too early");
    this.#at += bytes;
    return at;
  }
}
