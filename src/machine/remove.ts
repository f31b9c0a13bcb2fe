import type { QemuProcess } from "../hypervisor/index.js";
import { claimMachineLock } from "./claim.js";
import { within } from "./deadline.js";
import { hostFailure } from "./host-failure.js";
import { killQemu } from "./reaper.js";
import { loadState, removeFolder, type MachineFiles, type MachineState } from "./state.js";

const KILL_WAIT_MS = 5000;

/**
 * Ends a machine's QEMU at once and removes its folder. Another program's start or stop of it is waited for. Another machine
 * that has the name by now is left alone.
 */
export async function removeMachine(
  files: MachineFiles,
  { vmId, createdAt }: Pick<MachineState, "vmId" | "createdAt">,
  qemu: QemuProcess | null,
  claimTimeoutMs: number,
): Promise<void> {
  if (qemu !== null) {
    qemu.kill();
    await within(qemu.exited, KILL_WAIT_MS);
  }
  try {
    const lock = await claimMachineLock(files.lock, claimTimeoutMs);
    try {
      const state = await loadState(vmId);
      if (state !== null && state.createdAt !== createdAt) return;
      if (state !== null) await killQemu(state);
      await removeFolder(files.folder);
    } finally {
      lock.release();
    }
  } catch (error) {
    throw hostFailure(error, `Removing the machine's folder '${files.folder}'`);
  }
}
