import { statfsSync } from "node:fs";

import { ImageError } from "../errors.js";

/** Throws an IMAGE_NO_SPACE error before a write of that size is begun in vain. */
export function assertSpace(cacheDir: string, neededBytes: number, what?: string): void {
  if ((freeSpace(cacheDir) ?? Infinity) < neededBytes) throw noSpace(cacheDir, { neededBytes, what });
}

export interface NoSpace {
  readonly neededBytes?: number | undefined;
  /** How the message begins. Default: that there is no space left in the cache. */
  readonly what?: string | undefined;
  readonly cause?: unknown;
}

export function noSpace(cacheDir: string, { neededBytes, what, cause }: NoSpace): ImageError {
  const freeBytes = freeSpace(cacheDir);
  const needed = neededBytes === undefined ? "" : `${mebibytes(neededBytes)} needed, `;
  const free = freeBytes === null ? "free space unknown" : `${mebibytes(freeBytes)} free`;
  const begin = what ?? `No space left in the image cache '${cacheDir}'`;
  return new ImageError("IMAGE_NO_SPACE", `${begin}: ${needed}${free}.`, {
    hint: "Free some space (smolvm image prune), or choose another folder with SMOLVM_IMAGE_DIR.",
    details: { cacheDir, neededBytes: neededBytes ?? null, freeBytes },
    cause,
  });
}

/** What this user may still write to the file system of a folder, in bytes; null where that can't be found out. */
export function freeSpace(folder: string): number | null {
  try {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  } catch {
    return null; // whatever is wrong with the folder, the write itself says it better
  }
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
