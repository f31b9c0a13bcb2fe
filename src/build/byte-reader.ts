/** Reads a stream of chunks in the pieces that its consumer wants. */
export class ByteReader {
  /** Bytes given out so far. */
  position = 0;
  readonly #source: AsyncIterator<Uint8Array>;
  #chunk: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Exactly `count` bytes, in memory of their own or shared with the chunk they came in. Null if the stream ends before. */
  async take(count: number): Promise<Buffer | null> {
    if (this.#chunk.length >= count) return this.#cut(count);
    const parts: Buffer[] = [];
    for (let left = count; left > 0;) {
      const part = await this.some(left);
      if (part === null) return null;
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  /** At least one byte and at most `most`, as they come, without a copy. Null at the end of the stream. */
  async some(most: number): Promise<Buffer | null> {
    while (this.#chunk.length === 0) {
      const next = await this.#source.next();
      if (next.done === true) return null;
      this.#chunk = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.length);
    }
    return this.#cut(Math.min(most, this.#chunk.length));
  }

  /** Reads to the end of the stream and forgets what comes. */
  async drain(): Promise<void> {
    this.#chunk = Buffer.alloc(0);
    for (let next = await this.#source.next(); next.done !== true;) next = await this.#source.next();
  }

  /** Tells the source that no more is wanted. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }

  #cut(count: number): Buffer {
    const piece = this.#chunk.subarray(0, count);
    this.#chunk = this.#chunk.subarray(count);
    this.position += count;
    return piece;
  }
}
