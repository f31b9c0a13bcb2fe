import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { liveness, type ProcessIdentity } from "../host/process.js";
import { isClaimed } from "./claim.js";
import { explainDeath, type Death } from "./death.js";
import { hostFailure } from "./host-failure.js";
import { dropEndedLeases } from "./lease.js";
import {
  findFolders,
  folderAge,
  machineFiles,
  makerIsGone,
  removeFolder,
  saveState,
  type FoundFolder,
  type MachineState,
} from "./state.js";

/** How long another host or container, into which this one can't look, may take to fill a new folder. */
const STALE_MS = 60_000;
const KILL_TIMEOUT_MS = 5000;

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
  if (!(await isLeftOver(folder, kind, state)))
    return kind === "machine" && state !== null ? settle(folder, state) : null;
  if (state !== null) await killQemu(state);
  await removeFolder(folder);
  if (state !== null) removed.push(state.cacheDir);
  return null;
}

async function isLeftOver(folder: string, kind: FoundFolder["kind"], state: MachineState | null): Promise<boolean> {
  if (kind === "removed") return true; // whoever removes it right now does not mind help
  if (kind === "staging") return makerIsGone(folder) || (await folderAge(folder)) > STALE_MS;
  // A machine whose state can't be read can't be used, but may be of a newer version: it is for a person to remove.
  if (state === null || state.detached) return false;
  return state.owner === null || liveness(state.owner) === "dead";
}

/** A machine that stays: if its QEMU has ended on its own, its state says so from now on. */
async function settle(folder: string, state: MachineState): Promise<MachineState> {
  // A living owner sees to it itself, and knows more.
  if (state.run === null || (state.owner !== null && liveness(state.owner) !== "dead")) return state;
  const { qemu } = state.run;
  if (state.status === "running" && qemu !== null && liveness(qemu) !== "dead") return state;
  const files = machineFiles(folder);
  if (await isClaimed(files.lock)) return state; // just being started or stopped by another program
  await killQemu(state);
  const ending = endingOf(state) ?? explainDeath(files, null);
  const settled = { ...state, ...ending, run: null, ports: [] };
  await saveState(files, settled);
  return settled;
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
  const identity = state.run.qemu;
  const pids = identity === null ? findByToken(state.run.token) : liveness(identity) === "alive" ? [identity.pid] : [];
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // it has ended by itself in this moment
    }
  }
  if (identity !== null) await untilGone(identity, KILL_TIMEOUT_MS);
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
function findByToken(token: string): number[] {
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
  kill(): void;
  /** Gives back the image's files, at once: there is no later. */
  release(): void;
}

const owned = new Set<Owned>();
let watching = false;

/** Ends the machine and removes its folder when this program ends without having done so. */
export function endWithProgram(machine: Owned): Disposable {
  owned.add(machine);
  if (!watching) {
    watching = true;
    process.on("exit", endAll);
  }
  return { [Symbol.dispose]: () => owned.delete(machine) };
}

function endAll(): void {
  for (const machine of owned) {
    machine.kill();
    try {
      rmSync(machine.folder, { recursive: true, force: true });
      machine.release();
    } catch {
      // QEMU may still be writing; the next program that looks removes the rest
    }
  }
}
