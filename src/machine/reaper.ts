import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { rm, stat, utimes, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { isLocked, removeLock, tryLock } from "../host/lock.js";
import { liveness, processIdentity, type ProcessIdentity } from "../host/process.js";
import { claimMachineLock } from "./claim.js";
import { rotateConsole } from "./console-log.js";
import { explainDeath, type Death } from "./death.js";
import { hostFailure } from "./host-failure.js";
import { dropEndedLeases } from "./lease.js";
import {
  findFolders,
  folderAge,
  machineFiles,
  makerIsGone,
  readState,
  removeFolder,
  saveState,
  type FoundFolder,
  type MachineState,
} from "./state.js";

/** How long another host or container, into which this one can't look, may take to fill a new folder. */
const STALE_MS = 60_000;
const KILL_TIMEOUT_MS = 5000;
/** How long others may take to remove the same machine. */
const REMOVAL_TIMEOUT_MS = 10_000;
const HEARTBEAT_MS = 2000;
/** Without a heartbeat for so long an owner that can't be looked at is taken for dead: its container is gone, or its host. */
const SILENT_MS = 10 * 60 * 1000;
/** A host that slept that long wakes its programs in any order: what looks silent is given time for another heartbeat. */
const LAST_CHANCE_MS = 2.5 * HEARTBEAT_MS;

/**
 * Ends and removes what programs that are gone have left: machines of dead owners with their QEMU, and half-made or half-removed
 * folders. Notes what has ended meanwhile of the machines that stay. Gives those.
 */
export async function sweep(): Promise<MachineState[]> {
  try {
    const folders = await findFolders();
    const removed: string[] = [];
    const kept = await Promise.all(
      folders.map((found) =>
        // Another program may be at it, or it is of another user. It must not keep this one from its own machines.
        sweepOne(found, removed).catch(() => (found.kind === "machine" ? found.state : null)),
      ),
    );
    if (removed.length > 0) await dropEndedLeases(removed);
    return kept.filter((state) => state !== null);
  } catch (error) {
    throw hostFailure(error, "Looking for machines");
  }
}

async function sweepOne({ folder, kind, state }: FoundFolder, removed: string[]): Promise<MachineState | null> {
  switch (kind) {
    case "lock":
      await sweepLock(folder);
      return null;
    case "staging":
      if (makerIsGone(folder) || (await folderAge(folder)) > STALE_MS) await removeFolder(folder);
      return null;
    case "removed": // whoever removes it right now does not mind help
      if (state !== null) await killQemu(state);
      await removeFolder(folder);
      if (state !== null) removed.push(state.cacheDir);
      return null;
    case "machine":
      // One whose state can't be read can't be used, but may be of a newer version: it is for a person to remove.
      if (state === null) return null;
      return (await isAbandoned(folder, state)) ? removeAbandoned(folder, removed) : settle(folder, state);
  }
}

/** What processes that are gone have left of a lock. */
async function sweepLock(path: string): Promise<void> {
  if (!path.endsWith(".tmp")) {
    if (!isLocked(path)) removeLock(path);
  } else if ((await folderAge(path)) > STALE_MS) {
    await rm(path, { force: true });
  }
}

async function isAbandoned(folder: string, state: MachineState): Promise<boolean> {
  if (state.detached) return false;
  const verdict = state.owner === null ? "unknown" : liveness(state.owner);
  return verdict === "dead" || (verdict === "unknown" && (await isSilent(folder)));
}

/**
 * No sweep waits for another heartbeat: what is silent is marked, for any program's later sweep to judge. A mark from before the
 * last heartbeat is of an earlier silence.
 */
async function isSilent(folder: string): Promise<boolean> {
  const files = machineFiles(folder);
  const heartbeat = (await stat(files.state)).mtimeMs;
  if (Date.now() - heartbeat < SILENT_MS) return false;
  const marked = await stat(files.silent).then(
    ({ mtimeMs }) => mtimeMs,
    () => 0, // not yet
  );
  if (marked > heartbeat) return Date.now() - marked > LAST_CHANCE_MS;
  // Empty: on a disk that is full there is still room for a name. Writing it anew makes it new.
  await writeFile(files.silent, "", { mode: 0o600 });
  return false;
}

/** Removes the machine that has this name if, looked at while nobody else changes it, it is abandoned. */
async function removeAbandoned(folder: string, removed: string[]): Promise<MachineState | null> {
  const lock = await claimMachineLock(machineFiles(folder).lock, REMOVAL_TIMEOUT_MS);
  try {
    // What was seen before may be gone by now, and another machine may have its name.
    const state = await readState(folder);
    if (state === null || !(await isAbandoned(folder, state))) return state;
    await killQemu(state);
    await removeFolder(folder);
    removed.push(state.cacheDir);
    return null;
  } finally {
    lock.release();
  }
}

/** A machine that stays: if its QEMU has ended on its own, its state says so from now on. */
async function settle(folder: string, seen: MachineState): Promise<MachineState | null> {
  const files = machineFiles(folder);
  if (!hasEnded(seen)) {
    // Nobody may be connected to it: its maker has gone. That it fails means only that the next sweep tries again.
    if (seen.run !== null && seen.detached) await rotateConsole(files.console).catch(() => undefined);
    return seen;
  }
  const lock = await tryLock(files.lock);
  if (lock === null) return seen; // just being started or stopped by another program
  try {
    const state = await readState(folder);
    if (state === null || !hasEnded(state)) return state;
    await killQemu(state);
    const ending = endingOf(state) ?? explainDeath(files, null);
    const settled = { ...state, ...ending, run: null, ports: [] };
    await saveState(files, settled);
    return settled;
  } finally {
    lock.release();
  }
}

/** Whether it was running, does not any more, and nobody else is there to say so: a living owner knows more. */
function hasEnded({ run, owner, status }: MachineState): boolean {
  if (run === null || (owner !== null && liveness(owner) !== "dead")) return false;
  return status !== "running" || run.qemu === null || liveness(run.qemu) === "dead";
}

/** How it ended where that is not for the console to tell: its stop, or its start, was cut short with the program that did it. */
function endingOf({ status, reason }: MachineState): Death | null {
  if (status === "stopped") return { status, reason };
  if (status === "starting") return { status: "error", reason: "the program that started it ended before it was up" };
  return null;
}

/** SIGKILL for the QEMU of this run, known or not, and waits until it is gone. */
export async function killQemu(state: MachineState): Promise<void> {
  if (state.run === null) return;
  const { qemu, token } = state.run;
  const found = qemu === null ? findByToken(token) : liveness(qemu) === "alive" ? [qemu] : [];
  for (const { pid } of found) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // it has ended by itself in this moment
    }
  }
  await Promise.all(found.map((identity) => untilGone(identity, KILL_TIMEOUT_MS)));
}

/** True when the process was gone within the time. */
export async function untilGone(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (liveness(identity) === "alive") {
    if (Date.now() > deadline) return false;
    await sleep(5);
  }
  return true;
}

/** Processes with this run's UUID among their arguments: for a program that was killed before it could note the pid. */
function findByToken(token: string): ProcessIdentity[] {
  return pidsByToken(token)
    .map((pid) => processIdentity(pid))
    .filter((identity) => identity !== null);
}

function pidsByToken(token: string): number[] {
  if (process.platform !== "linux") {
    const listing = execFileSync("ps", ["-axo", "pid=,command="], { encoding: "utf8" });
    return listing
      .split("\n")
      .filter((line) => line.includes(`-uuid ${token}`))
      .map((line) => Number.parseInt(line, 10));
  }
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => argumentsOf(pid).includes(token))
    .map(Number);
}

function argumentsOf(pid: string): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return []; // it has ended
  }
}

interface Owned {
  readonly folder: string;
  readonly createdAt: string;
  kill(): void;
  /** Gives back the image's files and whatever else is held, at once: there is no later. */
  release(): void;
}

const owned = new Set<Owned>();
let watching = false;

/**
 * Ends the machine and removes its folder when this program ends without having done so. Until then the time of its state tells
 * those who can't look at this program that it lives.
 */
export function endWithProgram(machine: Owned): Disposable {
  owned.add(machine);
  if (!watching) {
    watching = true;
    process.on("exit", endAll);
  }
  const { state } = machineFiles(machine.folder);
  const beat = (): void => {
    const now = new Date();
    utimes(state, now, now).catch(() => undefined); // one missed does no harm, and a machine that is gone needs none
  };
  const heartbeat = setInterval(beat, HEARTBEAT_MS).unref();
  return {
    [Symbol.dispose]() {
      clearInterval(heartbeat);
      owned.delete(machine);
    },
  };
}

function endAll(): void {
  for (const machine of owned) {
    machine.kill();
    try {
      if (isStill(machine)) rmSync(machine.folder, { recursive: true, force: true });
    } catch {
      // QEMU may still be writing, and the next program that looks removes the rest; or another program has deleted it
    }
    try {
      machine.release();
    } catch {
      // what can't be given back is taken from the dead
    }
  }
}

/** Another program may have removed it and made another one of that name. */
function isStill({ folder, createdAt }: Owned): boolean {
  const state = JSON.parse(readFileSync(machineFiles(folder).state, "utf8")) as Partial<MachineState>;
  return state.createdAt === createdAt;
}
