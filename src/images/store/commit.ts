import { renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";

import { ImageError } from "../../errors.js";
import { isErrno } from "../../host/errno.js";
import type { Blobs } from "./blobs.js";
import { makeFolder } from "../../host/folder.js";
import { replaceFileDurably, setAside, syncFolder } from "./durable.js";
import { ASSET_FILES, RECORD_FILE, type Layout } from "./layout.js";
import { acquireLock, isLocked } from "../../host/lock.js";
import { entryAt, statOrNull } from "./look.js";
import { ASSET_KINDS, assetsOf, formatRecord, type ImageRecord, nameInRecord, readRecord } from "./record.js";
import { moveFile } from "./sparse.js";
import type { Stamps } from "./stamps.js";
import type { TemporaryFiles } from "./temporary.js";

/** The rooms of one cache folder that work together on a change. */
export interface Rooms {
  readonly layout: Layout;
  readonly stamps: Stamps;
  readonly blobs: Blobs;
  readonly temporary: TemporaryFiles;
}

/** What a change of names goes on under. */
export interface Held {
  /** Throws if others have taken this process for dead and may be changing names themselves. Asked before each step that can't be undone. */
  assert(): void;
}

/**
 * Runs a short change of names alone in this cache. The signal ends the wait for it; the change itself takes milliseconds. If the
 * lock is lost under it, the change is made once more from its beginning.
 */
export async function underCommitLock<T>(
  rooms: Rooms,
  work: (held: Held) => T | Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  for (;;) {
    const lock = await acquireLock(commitLock(rooms), signal);
    const assert = (): void => {
      if (!lock.isHeld()) throw lock.lost.reason;
    };
    try {
      return await work({ assert });
    } catch (error) {
      if (lock.isHeld() || signal?.aborted) throw error;
    } finally {
      lock.release();
    }
  }
}

/**
 * The same for a change that frees space. On a disk that is full to the last block nobody can announce that he wants the lock; then
 * the change goes on without, unless someone has it.
 */
export async function underCommitLockIfRoom<T>(rooms: Rooms, work: (held: Held) => T | Promise<T>): Promise<T> {
  try {
    return await underCommitLock(rooms, work);
  } catch (error) {
    const full = isErrno(error, "ENOSPC", "EDQUOT");
    if (!full || isLocked(commitLock(rooms))) throw error;
    return work({ assert: () => undefined });
  }
}

function commitLock({ layout }: Rooms): string {
  return join(layout.locks, "commit");
}

/**
 * The name of another image whose folder this is: the file system does not tell the two names apart, as by their case or by the
 * Unicode form of an accent. Null for none.
 */
export function otherNameAt(layout: Layout, name: string): string | null {
  const other = nameInRecord(layout.record(name));
  if (other === null || other === name) return null;
  const [here, there] = [layout.image(name), layout.image(other)].map((folder) =>
    statSync(folder, { throwIfNoEntry: false }),
  );
  return here !== undefined && here.ino === there?.ino && here.dev === there.dev ? other : null;
}

export function sameFolder(name: string, other: string): ImageError {
  return new ImageError(
    "IMAGE_INVALID",
    `The images '${name}' and '${other}' have one folder: this file system does not tell their names apart.`,
    {
      hint: `Give one of them another name, or remove the one that is here: smolvm image rm ${other}`,
      details: { name, other },
    },
  );
}

/**
 * Makes an image visible as one unit; its blobs are there and durable. The caller holds the commit lock.
 *
 * A new image is put together in a temporary folder that is then renamed. In the folder of an image that is there already, the
 * files are renamed one by one and image.json last. A crash between two of them leaves the old image.json beside new files: the
 * next use sees that they are not the ones it names, and links the old ones back from their blobs.
 *
 * Gives the new paths of files of others that were in its place.
 */
export async function commitImage(
  rooms: Rooms,
  record: ImageRecord,
  { held, signal, adopted }: CommitOptions,
): Promise<readonly string[]> {
  const { layout, stamps, blobs, temporary } = rooms;
  const folder = layout.image(record.name);
  const staged = temporary.path(record.name);
  const other = otherNameAt(layout, record.name);
  if (other !== null) throw sameFolder(record.name, other);
  const replaced = readRecord(layout.record(record.name), record.name);
  const touched = [record, ...(replaced ? [replaced] : [])].flatMap(assetsOf).map(([, asset]) => asset.contentDigest);
  const restamp = stamps.carry([...new Set(touched)].map((digest) => ({ digest, path: layout.blob(digest) })));
  makeFolder(staged);
  const aside: string[] = [];
  try {
    for (const [kind, { contentDigest }] of assetsOf(record)) {
      await blobs.link(layout.blob(contentDigest), join(staged, ASSET_FILES[kind]), contentDigest, signal);
    }
    await replaceFileDurably(join(staged, RECORD_FILE), formatRecord(record), signal);
    signal?.throwIfAborted();
    held.assert();
    if (entryAt(folder)?.isDirectory() === false) setAside(layout, folder, record.name);
    if (!renameFolder(staged, folder)) {
      // Without a record before, what is there was put by somebody else and is not ours to delete.
      if (replaced === null) aside.push(...setForeignAside(rooms, record, adopted));
      await replaceFiles(rooms, held, record, staged, folder);
    }
    await syncFolder(layout.root, signal);
  } finally {
    // Also after success: renaming a hard link over another one of the same file does nothing, and leaves both.
    rmSync(staged, { recursive: true, force: true });
  }
  await restamp();
  return aside;
}

export interface CommitOptions {
  readonly held: Held;
  readonly signal: AbortSignal | undefined;
  /** Files in the image's folder that are part of it: paths. */
  readonly adopted: ReadonlySet<string>;
}

/** Gives where the files are now. Those that turned out to have the image's bytes are not missed by anybody. */
function setForeignAside(
  { layout, blobs }: Rooms,
  { name, assets }: ImageRecord,
  adopted: ReadonlySet<string>,
): readonly string[] {
  return ASSET_KINDS.flatMap((kind) => {
    const path = layout.asset(name, kind);
    const digest = assets[kind]?.contentDigest;
    const same = adopted.has(path) || (digest !== undefined && blobs.isStamped(path, digest));
    return same || statOrNull(path) === null ? [] : (setAside(layout, path, `${name}-${ASSET_FILES[kind]}`) ?? []);
  });
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

async function replaceFiles(
  { layout }: Rooms,
  held: Held,
  record: ImageRecord,
  staged: string,
  folder: string,
): Promise<void> {
  const files = assetsOf(record).map(([kind]) => ASSET_FILES[kind]);
  for (const file of [...files, RECORD_FILE]) {
    const target = join(folder, file);
    // A folder can't be replaced by renaming a file.
    held.assert();
    if (entryAt(target)?.isDirectory()) setAside(layout, target, `${record.name}-${file}`);
    await moveFile(join(staged, file), target);
  }
  for (const file of Object.values(ASSET_FILES)) {
    if (!files.includes(file)) rmSync(join(folder, file), { recursive: true, force: true });
  }
  await syncFolder(folder);
}
