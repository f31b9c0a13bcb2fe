import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";

import { isErrno } from "./errno.js";
import { makeFolder, unique } from "./folder.js";
import { liveness, processIdentity, type ProcessIdentity } from "./process.js";

/*
 * The files in a lock's folder: one for everybody who has the lock or wants it, which says whose it is and is touched for as long as
 * its process lives.
 */

/**
 * Without a heartbeat for so long the holder is taken for dead: it runs on another host or in another container and can't
 * be looked at, or it was stopped and does nothing.
 */
const STALE_MS = 30_000;
/** Looking for a process can take as long as starting one: some systems have no other way. */
const LOOK_EVERY_MS = 200;
/** Beyond this many, what was seen is forgotten: it only delays the verdict on a lock whose holder can't be looked at. */
const MAX_SIGHTINGS = 1_000;
/** Nobody loses the folder so often in a row to others who leave it: it can't be made. */
const MAX_TRIES = 1_000;
/** What marks an announcement as that of the holder: a file beside it. Only for the order of those who wait. */
const HOLDS = ".holds";

interface Sighting {
  readonly mtimeMs: number;
  /** When this heartbeat was first seen, by this process's own clock: a wall clock that jumps makes nobody look dead. */
  readonly seenAt: number;
  /** When its process was last seen to live. */
  readonly aliveAt: number;
}
const sightings = new Map<string, Sighting>();

/** Announces this process, and gives the name of its file. */
export function announce(folder: string, { withParents }: { readonly withParents: boolean }): string {
  const own = unique();
  const identity = JSON.stringify(processIdentity());
  const staged = join(dirname(folder), `${basename(folder)}.${own}.tmp`);
  for (let tries = 1; ; tries++) {
    try {
      if (withParents) makeFolder(folder);
      else makeOne(folder);
      // Written elsewhere and renamed: nobody ever sees an announcement that does not say whose it is.
      writeFileSync(staged, identity, { flag: "wx" });
      renameSync(staged, join(folder, own));
      return own;
    } catch (error) {
      rmSync(staged, { force: true });
      // The last one to leave removes the folder: under the rename, or in the middle of making sure that it is there.
      const left = isErrno(error, "ENOENT") && (withParents || existsSync(dirname(folder)));
      if (tries === MAX_TRIES || !(left || setAside(folder, `${staged}.aside`))) throw error;
    }
  }
}

/**
 * A file where the lock is to be is of somebody who does not know what the place stands for. Two steps that never take a
 * folder: another process may have set it aside and made one by now.
 */
function setAside(path: string, to: string): boolean {
  if (lstatSync(path, { throwIfNoEntry: false })?.isFile() !== true) return false;
  linkSync(path, to);
  unlinkSync(path);
  return true;
}

function makeOne(folder: string): void {
  try {
    mkdirSync(folder);
  } catch (error) {
    if (!isErrno(error, "EEXIST")) throw error; // else another one was quicker
  }
}

export interface Announcement {
  readonly name: string;
  /** It has the lock, rather than waits for it. */
  readonly holds: boolean;
}

/** The announcements of others that live. What the dead left is cleared away. */
export function othersIn(folder: string, own: string | null): Announcement[] {
  const names = entries(folder);
  return names
    .filter((name) => name !== own && !name.endsWith(HOLDS) && isLive(join(folder, name)))
    .map((name) => ({ name, holds: names.includes(`${name}${HOLDS}`) }));
}

/** Folders in it are foreign: an announcement is a file. */
function entries(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map(({ name }) => name);
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}

/** Whether its process lives, and its heartbeat has moved within the time that this process has been watching it. */
function isLive(path: string): boolean {
  try {
    const now = performance.now();
    const { mtimeMs } = lstatSync(path);
    const last = sightings.get(path);
    const lookedJustNow = last !== undefined && now - last.aliveAt < LOOK_EVERY_MS;
    if (!lookedJustNow && liveness(identityIn(path)) === "dead") return bury(path);
    const seenAt = last?.mtimeMs === mtimeMs ? last.seenAt : now;
    if (now - seenAt > STALE_MS) return bury(path);
    if (sightings.size > MAX_SIGHTINGS) sightings.clear();
    sightings.set(path, { mtimeMs, seenAt, aliveAt: lookedJustNow ? last.aliveAt : now });
    return true;
  } catch (error) {
    if (isErrno(error, "ENOENT")) return false; // withdrawn just now
    throw error;
  }
}

function bury(path: string): false {
  clear(path);
  sightings.delete(path);
  return false;
}

/** An announcement that can't be read belongs to a process that can't be looked at. */
function identityIn(path: string): ProcessIdentity {
  const text = readFileSync(path, "utf8");
  try {
    const identity = JSON.parse(text) as Partial<ProcessIdentity> | null;
    if (typeof identity?.pid === "number" && typeof identity.scope?.host === "string")
      return identity as ProcessIdentity;
  } catch {
    // torn by a crash of the host, or foreign
  }
  return { pid: 0, started: "", scope: { host: "", boot: "", namespace: "" } };
}

/** Marks an announcement as that of the holder. */
export function markAsHolder(announcement: string): void {
  writeFileSync(`${announcement}${HOLDS}`, "");
}

/** The mark first: it never stands alone. */
export function clear(announcement: string): void {
  rmSync(`${announcement}${HOLDS}`, { force: true });
  rmSync(announcement, { force: true });
}

/** Removes what is left of a lock if nobody is in it. */
export function removeLock(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    // Someone is in it, or has removed it already.
    if (isErrno(error, "ENOTDIR")) rmSync(path, { force: true });
  }
}
