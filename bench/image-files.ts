import { createHash, randomFillSync } from "node:crypto";
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";

export const MIB = 1024 * 1024;

type Run = readonly [start: number, end: number];

/** Makes a file of random bytes and gives its SHA-256. */
export function writeDense(path: string, size: number): string {
  return writeRuns(path, size, [[0, size]]);
}

/**
 * Makes a file like an image that is mostly empty: a tenth of it is data, in runs of 4 KiB to 1 MiB at the same places every
 * time. Gives its SHA-256, where the data is, and how many bytes of it there are.
 */
export function writeMostlyEmpty(
  path: string,
  size: number,
): { readonly digest: string; readonly runs: readonly Run[]; readonly data: number } {
  const runs: Run[] = [];
  let data = 0;
  // A linear congruential generator (Numerical Recipes' constants): the same runs each time.
  let state = 1;
  const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  for (let at = 0; ;) {
    const length = 4096 * 2 ** Math.floor(random() * 9);
    const gap = 4096 * Math.round((length / 4096) * (2 + 14 * random()) + 1);
    at += gap;
    if (at + length > size) break;
    runs.push([at, at + length]);
    data += length;
    at += length;
  }
  return { digest: writeRuns(path, size, runs), runs, data };
}

function writeRuns(path: string, size: number, runs: readonly Run[]): string {
  const hash = createHash("sha256");
  const block = Buffer.alloc(4 * MIB);
  const zeros = Buffer.alloc(4 * MIB);
  const skip = (length: number): void => {
    for (let left = length; left > 0; left -= zeros.length)
      hash.update(zeros.subarray(0, Math.min(left, zeros.length)));
  };
  const fd = openSync(path, "w");
  try {
    let end = 0;
    for (const [from, to] of runs) {
      skip(from - end);
      for (let at = from; at < to; at += block.length) {
        const piece = block.subarray(0, Math.min(block.length, to - at));
        randomFillSync(piece);
        hash.update(piece);
        writeSync(fd, piece, 0, piece.length, at);
      }
      end = to;
    }
    skip(size - end);
    ftruncateSync(fd, size);
  } finally {
    closeSync(fd);
  }
  return hash.digest("hex");
}
