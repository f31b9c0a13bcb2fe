import { renameSync, rmSync } from "node:fs";
import { join } from "node:path";

import { isErrno } from "../../host/errno.js";
import type { Blobs } from "./blobs.js";
import { makeFolder, unique } from "../../host/folder.js";
import { replaceFile, syncFolder } from "./durable.js";
import { ASSET_FILES, RECORD_FILE, type Layout } from "./layout.js";
import { acquireLock, isLocked } from "../../host/lock.js";
import { entryAt } from "./look.js";
import { assetsOf, formatRecord, readRecord, type ImageRecord } from "./record.js";
import { moveFile } from "./sparse.js";
import type { Stamps } from "./stamps.js";

/** The rooms of one cache folder that work together on a change. */
export interface Rooms {
  readonly layout: Layout;
  readonly stamps: Stamps;
  readonly blobs: Blobs;
}

/** Runs a short change of names alone in this cache. The signal ends the wait for it; the change itself takes milliseconds. */
export async function underCommitLock<T>(rooms: Rooms, work: () => T | Promise<T>, signal?: AbortSignal): Promise<T> {
  const lock = await acquireLock(commitLock(rooms), signal);
  try {
    return await work();
  } finally {
    lock.release();
  }
}

/**
 * The same for a change that frees space. On a disk that is full to the last block nobody can announce that he wants the lock; then
 * the change goes on without, unless someone has it.
 */
export async function underCommitLockIfRoom<T>(rooms: Rooms, work: () => T | Promise<T>): Promise<T> {
  try {
    return await underCommitLock(rooms, work);
  } catch (error) {
    const full = isErrno(error, "ENOSPC", "EDQUOT");
    if (!full || isLocked(commitLock(rooms))) throw error;
    return work();
  }
}

function commitLock({ layout }: Rooms): string {
  return join(layout.locks, "commit");
}

/**
 * Makes an image visible as one unit; its blobs are there and durable. The caller holds the commit lock.
 *
 * A new image is put together in a staging folder that is then renamed. In the folder of an image that is there already, the
 * files are renamed one by one and image.json last. A crash between two of them leaves the old image.json beside new files: the
 * next use sees that they are not the ones it names, and links the old ones back from their blobs.
 */
export async function commitImage(rooms: Rooms, record: ImageRecord, signal?: AbortSignal): Promise<void> {
  const { layout, stamps, blobs } = rooms;
  const folder = layout.image(record.name);
  const staged = join(layout.staging, unique());
  const replaced = readRecord(layout.record(record.name), record.name);
  const touched = [record, ...(replaced ? [replaced] : [])].flatMap(assetsOf).map(([, asset]) => asset.contentDigest);
  const restamp = stamps.carry([...new Set(touched)].map((digest) => ({ digest, path: layout.blob(digest) })));
  // Under the lock nobody else stages: what is there was left by a process that was killed.
  rmSync(layout.staging, { recursive: true, force: true });
  makeFolder(staged);
  try {
    for (const [kind, { contentDigest }] of assetsOf(record)) {
      await blobs.link(layout.blob(contentDigest), join(staged, ASSET_FILES[kind]), contentDigest, signal);
    }
    replaceFile(join(staged, RECORD_FILE), formatRecord(record), { durable: true });
    signal?.throwIfAborted();
    if (entryAt(folder)?.isDirectory() === false) blobs.setAside(folder, record.name);
    if (!renameFolder(staged, folder)) await replaceFiles(rooms, record, staged, folder);
    syncFolder(layout.root);
  } finally {
    // Also after success: renaming a hard link over another one of the same file does nothing, and leaves both.
    rmSync(staged, { recursive: true, force: true });
  }
  await restamp();
}

/** False if the folder is there already: with something in it, or as the root of a file system of its own. */
function renameFolder(staged: string, folder: string): boolean {
  try {
    renameSync(staged, folder);
    return true;
  } catch (error) {
    if (isErrno(error, "ENOTEMPTY", "EEXIST", "EBUSY", "EXDEV")) return false;
    throw error;
  }
}

async function replaceFiles({ blobs }: Rooms, record: ImageRecord, staged: string, folder: string): Promise<void> {
  const files = assetsOf(record).map(([kind]) => ASSET_FILES[kind]);
  for (const file of [...files, RECORD_FILE]) {
    const target = join(folder, file);
    // A folder can't be replaced by renaming a file.
    if (entryAt(target)?.isDirectory()) blobs.setAside(target, `${record.name}-${file}`);
    await moveFile(join(staged, file), target);
  }
  for (const file of Object.values(ASSET_FILES)) {
    if (!files.includes(file)) rmSync(join(folder, file), { recursive: true, force: true });
  }
  syncFolder(folder);
}
