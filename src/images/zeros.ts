/** The unit of holes: the block size of nearly every file system, and the page size of most hosts. */
export const BLOCK = 4096;

const ZEROS = Buffer.alloc(BLOCK);

/** Whether `bytes[start, end)`, at most one block long, is all zeros. */
function isZero(bytes: Buffer, start: number, end: number): boolean {
  // The first byte alone decides for nearly all data, and costs nothing beside the comparison.
  return bytes[start] === 0 && bytes.compare(ZEROS, 0, end - start, start, end) === 0;
}

/**
 * The runs of blocks in `bytes` that are not all zeros, as [start, end, start, end, …] within `bytes`.
 * Blocks are those of the file that `bytes` stands at `offset` of.
 */
export function dataRuns(bytes: Buffer, offset: number): number[] {
  const runs: number[] = [];
  let runStart = -1;
  let at = 0;
  while (at < bytes.length) {
    const next = Math.min(bytes.length, at + BLOCK - ((offset + at) % BLOCK));
    if (isZero(bytes, at, next)) {
      if (runStart >= 0) runs.push(runStart, at);
      runStart = -1;
    } else if (runStart < 0) {
      runStart = at;
    }
    at = next;
  }
  if (runStart >= 0) runs.push(runStart, bytes.length);
  return runs;
}

/** More runs than this are never told: what they save is not worth what they cost to keep. */
const MAX_RUNS = 65_536;

/**
 * Collects where a file has data while its bytes go by in order. It needs at most 1 MiB, however the file is made: when
 * there are more than `maxRuns` runs, the smallest holes count as data, from then on too.
 */
export class ExtentCollector {
  readonly #maxRuns: number;
  #starts = new Float64Array(64);
  #ends = new Float64Array(64);
  #length = 0;
  /** Smaller holes count as data. */
  #leastHole = 0;

  constructor(maxRuns = MAX_RUNS) {
    this.#maxRuns = maxRuns;
  }

  add(bytes: Buffer, offset: number): void {
    const runs = dataRuns(bytes, offset);
    for (let i = 0; i < runs.length; i += 2) this.#push(offset + (runs[i] ?? 0), offset + (runs[i + 1] ?? 0));
  }

  #push(start: number, end: number): void {
    // A block that came in two pieces counts as data as a whole once either piece does.
    const blockStart = start - (start % BLOCK);
    const last = this.#length - 1;
    if (last >= 0 && blockStart - (this.#ends[last] ?? 0) <= this.#leastHole) {
      this.#ends[last] = end;
      return;
    }
    if (this.#length === this.#maxRuns) this.#thin();
    else if (this.#length === this.#starts.length) this.#grow();
    this.#starts[this.#length] = blockStart;
    this.#ends[this.#length++] = end;
  }

  #grow(): void {
    const size = Math.min(this.#maxRuns, this.#length * 2);
    const [starts, ends] = [this.#starts, this.#ends];
    this.#starts = new Float64Array(size);
    this.#ends = new Float64Array(size);
    this.#starts.set(starts);
    this.#ends.set(ends);
  }

  /** Fills the smallest holes, until half of the runs are left. */
  #thin(): void {
    while (this.#length > this.#maxRuns / 2) {
      this.#leastHole = Math.max(BLOCK, this.#leastHole * 2);
      let kept = 0;
      for (let i = 1; i < this.#length; i++) {
        const [start, end] = [this.#starts[i] ?? 0, this.#ends[i] ?? 0];
        if (start - (this.#ends[kept] ?? 0) > this.#leastHole) this.#starts[++kept] = start;
        this.#ends[kept] = end;
      }
      this.#length = kept + 1;
    }
  }

  get extents(): (readonly [start: number, end: number])[] {
    return Array.from({ length: this.#length }, (_, i) => [this.#starts[i] ?? 0, this.#ends[i] ?? 0] as const);
  }
}
