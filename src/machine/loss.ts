import { setTimeout as sleep } from "node:timers/promises";

import { SmolVMError } from "../errors.js";
import { liveness, type ProcessIdentity } from "../host/process.js";
import { claimMachineLock } from "./claim.js";
import type { Death } from "./death.js";
import { loadSame, saveState, type MachineFiles, type MachineState } from "./state.js";

const FIRST_LOOK_MS = 5;
const LAST_LOOK_MS = 250;

/** Whether the far end closed the connection, as a QEMU that ends does; if not, its guest broke the protocol. */
export function isHangUp(reason: Error): boolean {
  return reason instanceof SmolVMError && reason.details["reason"] === "closed";
}

/**
 * What has become of a machine that another program started, once its run is over: it "died" by itself, or was "left" by this
 * program, as another one has deleted it or started it anew; or its new state, where its end is known already. Null as soon as
 * nobody wants to know any more.
 */
export async function fateOf(
  lost: MachineState,
  watch: { readonly hungUp: boolean; readonly isOver: () => boolean },
): Promise<MachineState | "died" | "left" | null> {
  if (!lost.run?.qemu || !(await untilEnded(lost.run.qemu, watch))) return null;
  // Where nothing can be read, it is what it was when it was lost.
  const state = await loadSame(lost).catch(() => lost);
  if (state === null || state.status === "starting") return "left";
  if (state.status !== "running") return state;
  return state.run?.token === lost.run.token ? "died" : "left";
}

/**
 * Waits as long as it takes: a QEMU closes its sockets first, and then gives the guest's memory back. Doesn't keep this program
 * alive. One that can't be looked at has ended if it hung up.
 */
async function untilEnded(
  identity: ProcessIdentity,
  { hungUp, isOver }: { readonly hungUp: boolean; readonly isOver: () => boolean },
): Promise<boolean> {
  for (let wait = FIRST_LOOK_MS; !isOver(); wait = Math.min(2 * wait, LAST_LOOK_MS)) {
    const found = liveness(identity);
    if (found === "dead") return true;
    if (found === "unknown") return hungUp;
    await sleep(wait, undefined, { ref: false });
  }
  return false;
}

/**
 * Notes the end of a run for all programs, and gives the state that says so. Null when there is nothing to note: another program
 * has started the machine anew or deleted it.
 */
export async function saveDeath(
  files: MachineFiles,
  { vmId, createdAt, run }: MachineState,
  death: Death,
  claimTimeoutMs: number,
): Promise<MachineState | null> {
  const lock = await claimMachineLock(files.lock, claimTimeoutMs);
  try {
    const state = await loadSame({ vmId, createdAt });
    if (!state?.run || state.run.token !== run?.token) return null;
    const noted: MachineState = { ...state, ...death, run: null, ports: [] };
    await saveState(files, noted);
    return noted;
  } finally {
    lock.release();
  }
}
