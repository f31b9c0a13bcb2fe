import { mkdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";

import { isErrno } from "./errno.js";

/** A name that no other process and no other call chooses. */
export function unique(): string {
  // Not imported above: loading it takes longer than all that a list of images does.
  const { randomBytes } = process.getBuiltinModule("node:crypto");
  return randomBytes(8).toString("hex");
}

/**
 * Makes a folder and those above it, unless they are there. One by one: where the system refuses a folder with ENOENT, as in
 * /proc, Node 20's own `recursive` tries for ever, and for a read-only file system it gives the wrong reason.
 */
export function makeFolder(folder: string, options: { readonly mode?: number } = {}): void {
  const missing: string[] = [];
  for (let at = resolve(folder); statSync(at, { throwIfNoEntry: false }) === undefined; at = dirname(at))
    missing.push(at);
  for (const path of missing.reverse()) {
    try {
      mkdirSync(path, options);
    } catch (error) {
      if (!isErrno(error, "EEXIST")) throw error; // else another process was quicker
    }
  }
}
