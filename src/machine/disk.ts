import { open, rename } from "node:fs/promises";

import { ValidationError } from "../errors.js";
import { emptyQcow2 } from "./qcow2.js";

const MIB = 1024 * 1024;
const SECTOR = 512;

/** The private disk's size in bytes: that of the image, or what was asked for. @throws ValidationError when that is smaller. */
export function diskSize(imageSize: number, diskSizeMib: number | null): number {
  if (diskSizeMib === null) return Math.ceil(imageSize / SECTOR) * SECTOR;
  if (diskSizeMib * MIB >= imageSize) return diskSizeMib * MIB;
  throw new ValidationError(
    `diskSizeMib is ${diskSizeMib}; the image's file system needs at least ${Math.ceil(imageSize / MIB)}.`,
    {
      hint: `Leave diskSizeMib out, or make it ${Math.ceil(imageSize / MIB)} or more.`,
      details: { field: "diskSizeMib", value: diskSizeMib },
    },
  );
}

/**
 * Makes an empty copy-on-write disk, at its name only once it is whole. Written here, as starting a tool for it would cost more
 * than all of it. The caller holds the machine's lock.
 */
export async function createOverlay(path: string, virtualSize: number): Promise<void> {
  const { pieces, fileSize } = emptyQcow2(virtualSize);
  const temporary = `${path}.new`;
  const file = await open(temporary, "w", 0o600); // what a killed program has left is written over
  try {
    await file.truncate(fileSize);
    for (const { offset, bytes } of pieces) await file.write(bytes, 0, bytes.length, offset);
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}
