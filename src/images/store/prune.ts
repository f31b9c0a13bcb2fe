import { lstatSync, readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";

import { isImageName } from "../name.js";
import { isErrno } from "../../host/errno.js";
import type { Held, Rooms } from "./commit.js";
import { REMOVED_PREFIX } from "./layout.js";
import type { Leases } from "./leases.js";
import { isLocked, removeLock } from "../../host/lock.js";
import { entryAt } from "./look.js";
import { assetsOf, isDigest, readRecord } from "./record.js";
import { isAbandoned } from "./temporary.js";

export type PrunedKind = "blob" | "partial" | "lock" | "lease" | "temporary" | "damaged";

export interface Pruned {
  readonly what: PrunedKind;
  readonly path: string;
  /** Disk space in bytes that goes with it. A file with several names counts once, with the last of them, if all of them go. */
  readonly allocatedBytes: number;
}

export interface PruneReport {
  readonly dryRun: boolean;
  readonly removed: readonly Pruned[];
  readonly freedBytes: number;
}

/** A download that nobody works on is kept this long to be resumed. */
const PARTIAL_KEPT_MS = 24 * 60 * 60 * 1000;
/** Half-written small files that a killed process left are cleared after this. */
const SCRAP_KEPT_MS = 60 * 60 * 1000;

/**
 * Removes what no image, no machine and no running work uses. The caller holds the commit lock: nobody publishes, commits or
 * takes a lease meanwhile. Fails before removing anything if a lease can't be read.
 */
export function prune(rooms: Rooms, leases: Leases, held: Held, dryRun: boolean): PruneReport {
  const survey = leases.surveyAll();
  const leased = new Set(survey.live.flatMap((lease) => lease.digests));
  const found = [
    ...unusedBlobs(rooms, leased),
    ...stalePartials(rooms),
    ...survey.stale.map((path) => item("lease", path)),
    ...deadLocks(rooms),
    ...leftovers(rooms),
    ...children(rooms.layout.damaged).map((path) => item("damaged", path)),
  ];
  const removed = weigh(found);
  if (!dryRun) {
    for (const { path, what } of removed) {
      held.assert();
      if (what === "lock") removeLock(path);
      else rmSync(path, { recursive: true, force: true });
    }
    clearSideFiles(rooms);
  }
  return { dryRun, removed, freedBytes: removed.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0) };
}

/** The names of the folders that can be images, sorted. */
export function imageNames(root: string): string[] {
  return entries(root)
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .filter(isImageName)
    .sort();
}

/** The blobs of `candidates` (all, if not given) that no image consists of and that are not held. */
export function unusedBlobs({ layout }: Rooms, held: ReadonlySet<string>, candidates?: readonly string[]): Found[] {
  const used = new Set(held);
  for (const name of imageNames(layout.root)) {
    const record = readRecord(layout.record(name), name);
    if (record !== null) for (const [, asset] of assetsOf(record)) used.add(asset.contentDigest);
  }
  return (candidates ?? entries(layout.blobs).map(({ name }) => name))
    .filter((digest) => !used.has(digest))
    .map((digest) => item("blob", layout.blob(digest)))
    .filter(({ path }) => entryAt(path) !== undefined);
}

function stalePartials({ layout }: Rooms): Found[] {
  return children(layout.partials)
    .filter((path) => !isLocked(join(layout.locks, keyOf(path))) && ageOf(path) > PARTIAL_KEPT_MS)
    .map((path) => item("partial", path));
}

/** A partial and its side files begin with the key of their lock. */
function keyOf(path: string): string {
  return basename(path).split(".")[0] ?? "";
}

function deadLocks({ layout }: Rooms): Found[] {
  return children(layout.locks)
    .filter((path) => (entryAt(path)?.isDirectory() ? !isLocked(path) : ageOf(path) > SCRAP_KEPT_MS))
    .map((path) => item("lock", path));
}

function leftovers({ layout }: Rooms): Found[] {
  const folders = [layout.stamps, layout.extents, layout.sources, layout.leases];
  return [
    ...children(layout.root).filter((path) => basename(path).startsWith(REMOVED_PREFIX)),
    ...children(layout.temporary).filter(isAbandoned),
    ...folders.flatMap(children).filter((path) => path.endsWith(".tmp") && ageOf(path) > SCRAP_KEPT_MS),
  ].map((path) => item("temporary", path));
}

/** Stamps and extents of blobs that are no more: a few bytes each, not worth a line in the report. */
function clearSideFiles({ layout }: Rooms): void {
  for (const path of [...children(layout.stamps), ...children(layout.extents)]) {
    const digest = basename(path).slice(0, 64);
    if (isDigest(digest) && entryAt(layout.blob(digest)) === undefined) {
      rmSync(path, { recursive: true, force: true });
    }
  }
}

type Found = Omit<Pruned, "allocatedBytes">;

function item(what: PrunedKind, path: string): Found {
  return { what, path };
}

/** Says of everything that goes how much disk space goes with it. */
export function weigh(found: readonly Found[]): Pruned[] {
  const linksLeft = new Map<bigint, bigint>();
  const weightOf = (path: string): number => {
    const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (stat === undefined) return 0;
    if (stat.isDirectory()) return children(path).reduce((sum, child) => sum + weightOf(child), 0);
    const left = (linksLeft.get(stat.ino) ?? stat.nlink) - 1n;
    linksLeft.set(stat.ino, left);
    return left === 0n ? Number(stat.blocks) * 512 : 0;
  };
  return found.map((each) => ({ ...each, allocatedBytes: weightOf(each.path) }));
}

function ageOf(path: string): number {
  const stat = entryAt(path);
  return stat === undefined ? 0 : Date.now() - stat.mtimeMs;
}

function children(folder: string): string[] {
  return entries(folder).map(({ name }) => join(folder, name));
}

function entries(folder: string): { name: string; isDirectory(): boolean }[] {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}
