import { existsSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";

import { isErrno } from "./errno.js";

/** A name that no other process and no other call chooses. */
export function unique(): string {
  // Not imported above: loading it takes longer than all that a list of images does.
  const { randomBytes } = process.getBuiltinModule("node:crypto");
  return randomBytes(8).toString("hex");
}

/** Makes a folder and those above it, unless they are there. */
export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error;
    // Node says so also of a read-only file system. Making the topmost one that is missing tells the true reason.
    let missing = folder;
    while (!existsSync(dirname(missing))) missing = dirname(missing);
    try {
      mkdirSync(missing);
    } catch (reason) {
      if (!isErrno(reason, "EEXIST")) throw reason; // else another process was quicker
    }
    mkdirSync(folder, { recursive: true });
  }
}
