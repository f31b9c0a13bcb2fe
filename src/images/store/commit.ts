import { mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

import type { Blobs } from "./blobs.js";
import { entryAt, replaceFile, syncFolder, unique } from "./durable.js";
import { ASSET_FILES, RECORD_FILE, type Layout } from "./layout.js";
import { assetsOf, formatRecord, readRecord, type ImageRecord } from "./record.js";
import type { Stamps } from "./stamps.js";

/** The rooms of one cache folder that work together on a change. */
export interface Rooms {
  readonly layout: Layout;
  readonly stamps: Stamps;
  readonly blobs: Blobs;
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
  mkdirSync(staged, { recursive: true });
  try {
    for (const [kind, { contentDigest }] of assetsOf(record)) {
      await blobs.link(layout.blob(contentDigest), join(staged, ASSET_FILES[kind]), contentDigest, signal);
    }
    replaceFile(join(staged, RECORD_FILE), formatRecord(record), { durable: true });
    signal?.throwIfAborted();
    if (isFolder(folder) && readdirSync(folder).length > 0) {
      replaceFiles(rooms, record, staged, folder);
    } else {
      if (!isFolder(folder)) blobs.setAside(folder, record.name);
      renameSync(staged, folder);
    }
    syncFolder(layout.root);
  } finally {
    // Also after success: renaming a hard link over another one of the same file does nothing, and leaves both.
    rmSync(staged, { recursive: true, force: true });
  }
  await restamp();
}

function replaceFiles({ blobs }: Rooms, record: ImageRecord, staged: string, folder: string): void {
  const files = assetsOf(record).map(([kind]) => ASSET_FILES[kind]);
  for (const file of [...files, RECORD_FILE]) {
    const target = join(folder, file);
    // A folder can't be replaced by renaming a file.
    if (isFolder(target)) blobs.setAside(target, `${record.name}-${file}`);
    renameSync(join(staged, file), target);
  }
  for (const file of Object.values(ASSET_FILES)) {
    if (!files.includes(file)) rmSync(join(folder, file), { recursive: true, force: true });
  }
  syncFolder(folder);
}

function isFolder(path: string): boolean {
  return entryAt(path)?.isDirectory() ?? false;
}
