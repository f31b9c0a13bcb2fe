import { HostError } from "../errors.js";
import type { QemuProcess } from "../hypervisor/index.js";
import { waitForClaim } from "./claim.js";
import { within } from "./deadline.js";
import { killQemu } from "./reaper.js";
import { loadState, removeFolder, type MachineFiles } from "./state.js";

const KILL_WAIT_MS = 5000;

/** Ends a machine's QEMU at once and removes its folder. Another program's start or stop of it is waited for. */
export async function removeMachine(
  files: MachineFiles,
  vmId: string,
  qemu: QemuProcess | null,
  claimTimeoutMs: number,
): Promise<void> {
  if (qemu !== null) {
    qemu.kill();
    await within(qemu.exited, KILL_WAIT_MS);
  }
  try {
    await waitForClaim(files.lock, claimTimeoutMs); // goes with the folder
    const state = await loadState(vmId);
    if (state !== null) await killQemu(state);
    await removeFolder(files.folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return; // another program was faster
    throw new HostError("HOST_IO", `The machine's folder '${files.folder}' can't be removed.`, { cause: error });
  }
}
