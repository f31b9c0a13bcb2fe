import type { FileHandle } from "node:fs/promises";

/** Neighbouring writes are gathered up to this size. */
const GATHER = 1024 * 1024;

/** A file in which only what is written takes room. Writes that follow each other become one; they must not overlap. */
export class SparseFile {
  readonly #handle: FileHandle;
  readonly #written: [start: number, end: number][] = [];
  #buffer = Buffer.allocUnsafeSlow(GATHER);
  #start = 0;
  #length = 0;
  /** A second buffer fills while the first is on its way. */
  #spare = Buffer.allocUnsafeSlow(GATHER);
  #underway: Promise<void> = Promise.resolve();

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async write(position: number, data: Uint8Array): Promise<void> {
    if (position !== this.#start + this.#length) {
      if (this.#length > 0) await this.#flush();
      this.#start = position;
    }
    let at = 0;
    while (at < data.length) {
      const take = Math.min(data.length - at, GATHER - this.#length);
      this.#buffer.set(at === 0 && take === data.length ? data : data.subarray(at, at + take), this.#length);
      this.#length += take;
      at += take;
      if (this.#length === GATHER) await this.#flush();
    }
  }

  /** Writes what is left and gives the file its length. Gives the runs that hold data, ascending; between them are holes. */
  async finish(size: number): Promise<readonly (readonly [start: number, end: number])[]> {
    await this.#flush();
    await this.#underway;
    await this.#handle.truncate(size);
    return merge(this.#written);
  }

  async #flush(): Promise<void> {
    await this.#underway;
    const [buffer, start, length] = [this.#buffer, this.#start, this.#length];
    if (length > 0) this.#written.push([start, start + length]);
    this.#underway = writeWhole(this.#handle, buffer, length, start);
    // Reported by the next flush or by `finish`; without this a failure in between would count as unhandled.
    this.#underway.catch(() => undefined);
    this.#buffer = this.#spare;
    this.#spare = buffer;
    this.#start = start + length;
    this.#length = 0;
  }
}

async function writeWhole(handle: FileHandle, data: Buffer, length: number, position: number): Promise<void> {
  let at = 0;
  while (at < length) at += (await handle.write(data, at, length - at, position + at)).bytesWritten;
}

function merge(runs: readonly (readonly [number, number])[]): readonly (readonly [number, number])[] {
  const merged: [number, number][] = [];
  for (const [start, end] of [...runs].sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last !== undefined && start <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([start, end]);
  }
  return merged;
}
