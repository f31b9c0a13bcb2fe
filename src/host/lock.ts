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
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";

import { isErrno } from "./errno.js";
import { makeFolder, unique } from "./folder.js";
import { liveness, processIdentity, type ProcessIdentity } from "./process.js";

export interface Lock {
  /** Aborted if the lock was lost: this process was held up for so long that others took it for dead. */
  readonly lost: AbortSignal;
  /**
   * Looks whether it is still held, and aborts `lost` if it is not. To be asked before a step that can't be undone: after a
   * long stop the program goes on at once, and `lost` is told only at the next heartbeat.
   */
  isHeld(): boolean;
  release(): void;
}

const HEARTBEAT_MS = 3_000;
/**
 * Without a heartbeat for so long the holder is taken for dead: it runs on another host or in another container and can't
 * be looked at, or it was stopped and does nothing.
 */
const STALE_MS = 30_000;
/** Looking for a process can take as long as starting one: some systems have no other way. */
const LOOK_EVERY_MS = 200;
/** Beyond this many, what was seen is forgotten: it only delays the verdict on a lock whose holder can't be looked at. */
const MAX_SIGHTINGS = 1_000;
const FIRST_POLL_MS = 5;
const LAST_POLL_MS = 200;
/** Nobody loses the folder so often in a row to others who leave it: it can't be made. */
const MAX_TRIES = 1_000;
/** How often the next in line looks. */
const NEXT_POLL_MS = 20;
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

/** Those of this process who wait for a lock, woken when one of this process lets go of it. */
const waiters = new Map<string, Set<() => void>>();

/**
 * Takes the lock that the folder stands for, waiting for as long as others have it.
 *
 * Whoever wants the lock announces itself by a file of its own in the folder, then looks who else is there: it has the lock if
 * it sees only itself. Of two that announce themselves at once, the one that looks later sees the other, so never do both have it.
 * While there is a holder one may stay announced, and is next; of several the one whose name sorts first stays. What a
 * dead process left is removed by its own unique name, so that breaking a stale lock can't hit a fresh one.
 */
export async function acquireLock(folder: string, signal?: AbortSignal): Promise<Lock> {
  let poll = FIRST_POLL_MS;
  for (;;) {
    signal?.throwIfAborted();
    if (othersIn(folder, null).every(({ holds }) => holds)) {
      const lock = await stay(folder, announce(folder, { withParents: true }), { behindHolder: true, signal });
      if (lock !== null) return lock;
    }
    // Half of the pause by chance: processes that started together should not look together for ever.
    await turn(folder, poll * (0.5 + Math.random() / 2), signal);
    poll = Math.min(poll * 1.5, LAST_POLL_MS);
  }
}

/**
 * Takes the lock unless somebody has it, or takes it at the same moment: null then. Of several that try at once, one gets it.
 * Other than `acquireLock` it doesn't make the folder that the lock is to be in.
 *
 * @throws the system's ENOENT where there is no such folder.
 */
export async function tryLock(folder: string, signal?: AbortSignal): Promise<Lock | null> {
  signal?.throwIfAborted();
  if (othersIn(folder, null).some(({ holds }) => holds)) return null;
  return stay(folder, announce(folder, { withParents: false }), { behindHolder: false, signal });
}

interface Stay {
  /** Wait while another one holds the lock. */
  readonly behindHolder: boolean;
  readonly signal: AbortSignal | undefined;
}

/** Waits, announced, to be alone; null if another one comes first. */
async function stay(folder: string, own: string, { behindHolder, signal }: Stay): Promise<Lock | null> {
  let held = false;
  try {
    for (let poll = FIRST_POLL_MS; ; poll = Math.min(poll * 1.5, NEXT_POLL_MS)) {
      const others = othersIn(folder, own);
      if (others.length === 0) {
        held = true;
        return hold(folder, own);
      }
      if (others.some(({ holds, name }) => (holds ? !behindHolder : name < own))) return null;
      await turn(folder, poll, signal);
    }
  } finally {
    if (!held) withdraw(folder, own);
  }
}

/** Whether a process that lives holds or wants the lock. */
export function isLocked(folder: string): boolean {
  return othersIn(folder, null).length > 0;
}

function announce(folder: string, { withParents }: { readonly withParents: boolean }): string {
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

interface Announcement {
  readonly name: string;
  /** It has the lock, rather than waits for it. */
  readonly holds: boolean;
}

/** The announcements of others that live. What the dead left is cleared away. */
function othersIn(folder: string, own: string | null): Announcement[] {
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

function hold(folder: string, own: string): Lock {
  const lost = new AbortController();
  const path = join(folder, own);
  writeFileSync(`${path}${HOLDS}`, "");
  const beat = (): boolean => {
    try {
      const now = new Date();
      utimesSync(path, now, now);
    } catch (error) {
      if (isErrno(error, "ENOENT")) lost.abort(new Error(`the lock ${folder} was lost`));
      // Any other failure to beat ends with others taking the lock over, and then with ENOENT here.
    }
    return !lost.signal.aborted;
  };
  const heartbeat = setInterval(beat, HEARTBEAT_MS);
  heartbeat.unref();
  return {
    lost: lost.signal,
    isHeld: beat,
    release() {
      clearInterval(heartbeat);
      withdraw(folder, own);
    },
  };
}

function withdraw(folder: string, own: string): void {
  clear(join(folder, own));
  removeLock(folder);
  for (const wake of waiters.get(folder) ?? []) wake();
}

/** The mark first: it never stands alone. */
function clear(announcement: string): void {
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

/** Waits until it is worth looking again. */
async function turn(folder: string, milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  const waiting = waiters.get(folder) ?? new Set();
  waiters.set(folder, waiting);
  await new Promise<void>((resolve, reject) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      waiting.delete(done);
      if (waiting.size === 0) waiters.delete(folder);
      if (signal?.aborted) reject(signal.reason as Error);
      else resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done, { once: true });
    waiting.add(done);
  });
}
