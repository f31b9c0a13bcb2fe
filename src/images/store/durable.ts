import { constants, renameSync, rmSync, writeFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname, join } from "node:path";

import { abortable } from "../../host/abortable.js";
import { isErrno } from "../../host/errno.js";
import { makeFolder, unique } from "../../host/folder.js";
import type { Layout } from "./layout.js";
import { entryAt } from "./look.js";

/*
 * What a disk takes its time for is done off the main thread. An aborted caller does not wait for it: it goes on by itself and
 * its outcome is dropped.
 */

/** Makes names in a folder outlive a power cut. */
export async function syncFolder(folder: string, signal?: AbortSignal): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await syncHandle(handle, signal);
  } catch (error) {
    // Some file systems (network and FUSE ones) have no fsync for folders: then there is nothing that could be done.
    if (!isErrno(error, "EINVAL", "ENOTSUP")) throw error;
  }
}

/** Makes a file's bytes outlive a power cut. */
export async function syncFile(path: string, signal?: AbortSignal): Promise<void> {
  await syncHandle(await open(path, constants.O_RDONLY | constants.O_NOFOLLOW), signal);
}

/** Syncs what the handle is of, and closes it. */
export function syncHandle(handle: FileHandle, signal: AbortSignal | undefined): Promise<void> {
  return abortable(
    handle.sync().finally(() => handle.close()),
    signal,
  );
}

/** Writes a small file so that a reader sees the old one or the whole new one. */
export function replaceFile(path: string, text: string): void {
  const staged = `${path}.${unique()}.tmp`;
  makeFolder(dirname(path));
  try {
    writeFileSync(staged, text, { flag: "wx" });
    renameSync(staged, path);
  } catch (error) {
    rmSync(staged, { force: true });
    throw error;
  }
}

/** The same for a file that must outlive a power cut once it is there. */
export async function replaceFileDurably(path: string, text: string, signal?: AbortSignal): Promise<void> {
  const staged = `${path}.${unique()}.tmp`;
  makeFolder(dirname(path));
  try {
    writeFileSync(staged, text, { flag: "wx" });
    await syncFile(staged, signal);
    renameSync(staged, path);
  } catch (error) {
    rmSync(staged, { force: true });
    throw error;
  }
  await syncFolder(dirname(path), signal);
}

/** What a rename to the place of a file answers where a folder is. */
export const IN_THE_WAY = ["EISDIR", "ENOTEMPTY", "EEXIST"] as const;

/** Moves what is in the way, and is not what its name says, to where nothing reads. Gives its new path, if it has one. */
export function setAside({ damaged }: Pick<Layout, "damaged">, path: string, label: string): string | null {
  if (entryAt(path) === undefined) return null;
  makeFolder(damaged);
  const to = join(damaged, `${label}-${new Date().toISOString().replaceAll(":", "")}-${unique()}`);
  try {
    renameSync(path, to);
    return to;
  } catch (error) {
    if (!isErrno(error, "EXDEV")) throw error;
    rmSync(path, { recursive: true }); // on another file system there is no aside that costs nothing
    return null;
  }
}
