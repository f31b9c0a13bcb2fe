import type { PartialFile } from "./partial.js";
import { BLOCK } from "../zeros.js";

/** Larger writes are no quicker; smaller ones cost by the call (16 KiB pieces, as TLS gives them, nearly twice as much). */
const WRITE_SIZE = 256 * 1024;
const LEAST_WRITE_SIZE = 32 * 1024;

/** Puts the pieces of one response together to writes of a good size that end at block boundaries. */
export class Appender {
  readonly #file: PartialFile;
  readonly #buffer: Buffer;
  /** Where in the file the buffer's first byte belongs. */
  #offset: number;
  #used = 0;

  constructor(file: PartialFile, offset: number) {
    this.#file = file;
    this.#offset = offset;
    this.#buffer = file.spareBuffers.pop() ?? Buffer.allocUnsafeSlow(WRITE_SIZE);
  }

  /** Where the next byte belongs. */
  get position(): number {
    return this.#offset + this.#used;
  }

  push(bytes: Buffer): void {
    // All connections together keep no more back than one alone, so that a killed process loses little.
    const limit = Math.max(LEAST_WRITE_SIZE, Math.floor(WRITE_SIZE / this.#file.lanes / BLOCK) * BLOCK);
    for (let at = 0; at < bytes.length;) {
      const rest = bytes.length - at;
      const large = rest >= limit / 2;
      if (large && this.#used === 0 && this.#offset % BLOCK === 0) {
        // Enough for a write of its own: straight from where it is.
        const whole = rest - (rest % BLOCK);
        this.#file.write(bytes.subarray(at, at + whole), this.#offset);
        this.#offset += whole;
        at += whole;
        continue;
      }
      const full = limit - (this.#offset % BLOCK);
      const boundary = this.#used + BLOCK - (this.position % BLOCK);
      const target = large || this.#used >= full ? boundary : full;
      const end = Math.min(bytes.length, at + target - this.#used);
      bytes.copy(this.#buffer, this.#used, at, end);
      this.#used += end - at;
      at = end;
      if (this.#used === target) this.#flush();
    }
  }

  /** Writes what waits, whole block or not: the response has ended, well or badly. */
  end(): void {
    try {
      this.#flush();
    } finally {
      this.#file.spareBuffers.push(this.#buffer);
    }
  }

  #flush(): void {
    if (this.#used === 0) return;
    this.#file.write(this.#buffer.subarray(0, this.#used), this.#offset);
    this.#offset += this.#used;
    this.#used = 0;
  }
}
