import { closeSync, constants, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

import { isErrno } from "../storage-failure.js";
import { entryAt } from "./look.js";

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
    while (entryAt(dirname(missing)) === undefined) missing = dirname(missing);
    try {
      mkdirSync(missing);
    } catch (reason) {
      if (!isErrno(reason, "EEXIST")) throw reason; // else another process was quicker
    }
    mkdirSync(folder, { recursive: true });
  }
}

/** Makes names in a folder outlive a power cut. */
export function syncFolder(folder: string): void {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } catch (error) {
    // Some file systems (network and FUSE ones) have no fsync for folders: then there is nothing that could be done.
    if (!isErrno(error, "EINVAL", "ENOTSUP")) throw error;
  } finally {
    closeSync(fd);
  }
}

export function syncFile(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Writes a small file so that a reader sees the old one or the whole new one. */
export function replaceFile(path: string, text: string, options: { readonly durable: boolean }): void {
  const folder = dirname(path);
  makeFolder(folder);
  const staged = `${path}.${unique()}.tmp`;
  try {
    writeFileSync(staged, text, { flag: "wx", flush: options.durable });
    renameSync(staged, path);
  } catch (error) {
    rmSync(staged, { force: true });
    throw error;
  }
  if (options.durable) syncFolder(folder);
}
