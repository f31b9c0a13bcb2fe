import { chmodSync, constants, lstatSync, openSync, rmSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

import { isErrno } from "../../host/errno.js";
import { makeFolder } from "../../host/folder.js";

/**
 * Opens or makes a file that only transfers use, for reading and writing. What is not such a file is taken out of its place,
 * as it would be in the way for ever: a folder, a link, a pipe, or a further name of a file that is in use elsewhere.
 */
export function openOwnFile(path: string): number {
  makeFolder(dirname(path));
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there !== undefined) {
    if (!there.isFile() || there.nlink > 1) rmSync(path, { recursive: true, force: true });
    // A process that was killed in the middle of publishing it had made it unwritable already.
    else if ((there.mode & 0o600) !== 0o600) chmodSync(path, 0o644);
  }
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  return openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o644);
}

/** Removes the files whose names are `path`, a dot and more, but for those in `kept`. */
export async function removeSideFiles(path: string, kept: readonly string[] = []): Promise<void> {
  const folder = dirname(path);
  const prefix = `${basename(path)}.`;
  const names = await readdir(folder).catch((error: unknown) => {
    if (isErrno(error, "ENOENT")) return [];
    throw error;
  });
  for (const name of names) {
    const side = join(folder, name);
    if (name.startsWith(prefix) && !kept.includes(side)) await rm(side, { recursive: true, force: true });
  }
}
