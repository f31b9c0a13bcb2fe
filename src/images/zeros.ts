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

/** Collects where a file has data while its bytes go by in order. */
export class ExtentCollector {
  readonly extents: (readonly [number, number])[] = [];

  add(bytes: Buffer, offset: number): void {
    const runs = dataRuns(bytes, offset);
    for (let i = 0; i < runs.length; i += 2) {
      const start = offset + (runs[i] ?? 0);
      const end = offset + (runs[i + 1] ?? 0);
      const last = this.extents.at(-1);
      // A block that came in two pieces counts as data as a whole once either piece does.
      const blockStart = start - (start % BLOCK);
      if (last !== undefined && last[1] >= blockStart) this.extents[this.extents.length - 1] = [last[0], end];
      else this.extents.push([blockStart, end]);
    }
  }
}
