import { closeSync, constants, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

import { isErrno } from "../../host/errno.js";
import { makeFolder, unique } from "../../host/folder.js";

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
