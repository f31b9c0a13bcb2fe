import { utimesSync } from "node:fs";
import { join } from "node:path";

import { announce, clear, markAsHolder, othersIn, removeLock } from "./announcement.js";
import { isErrno } from "./errno.js";

export { removeLock };

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
const FIRST_POLL_MS = 5;
const LAST_POLL_MS = 200;
/** How often the next in line looks. */
const NEXT_POLL_MS = 20;

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
        const lock = hold(folder, own);
        held = true;
        return lock;
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

function hold(folder: string, own: string): Lock {
  const lost = new AbortController();
  const path = join(folder, own);
  markAsHolder(path);
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
