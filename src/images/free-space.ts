import { statfsSync } from "node:fs";

import { ImageError } from "../errors.js";

/** Throws an IMAGE_NO_SPACE error before a write of that size is begun in vain. */
export function assertSpace(folder: string, neededBytes: number): void {
  if ((freeSpace(folder) ?? Infinity) < neededBytes) throw noSpace(folder, neededBytes);
}

export function noSpace(folder: string, neededBytes?: number, cause?: unknown): ImageError {
  const freeBytes = freeSpace(folder);
  const needed = neededBytes === undefined ? "" : `${mebibytes(neededBytes)} needed, `;
  const free = freeBytes === null ? "free space unknown" : `${mebibytes(freeBytes)} free`;
  return new ImageError("IMAGE_NO_SPACE", `No space left in the image cache '${folder}': ${needed}${free}.`, {
    hint: "Free some space (smolvm image prune), or choose another folder with SMOLVM_IMAGE_DIR.",
    details: { cacheDir: folder, neededBytes: neededBytes ?? null, freeBytes },
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
