import type { QemuProcess } from "../hypervisor/index.js";
import { QMP_SOCKET, withQmp } from "../hypervisor/index.js";
import { openFreeLane, type Lane } from "./lanes.js";
import { killQemu, untilGone } from "./reaper.js";
import type { MachineFiles, MachineState } from "./state.js";

/** Time for the guest to end its processes, sync and power off. */
const POWER_OFF_MS = 8000;
const ANSWER_MS = 2000;
const QUIT_MS = 2000;

/** Ends a machine's QEMU: by the guest's own shutdown, else by QEMU's monitor, else by SIGKILL. */
export async function stopRunning(
  files: MachineFiles,
  state: MachineState,
  held: { readonly qemu: QemuProcess | null; readonly lane: Lane | null },
): Promise<void> {
  const identity = state.run?.qemu ?? held.qemu?.identity;
  if (!identity) {
    await killQemu(state);
    return;
  }
  try {
    const lane = held.lane ?? (await openFreeLane(files, { timeoutMs: ANSWER_MS }));
    using _ = lane.hold();
    try {
      await lane.connection.powerOff({ signal: AbortSignal.timeout(ANSWER_MS) });
      if (await untilGone(identity, POWER_OFF_MS)) return;
    } finally {
      if (held.lane === null) lane.close();
    }
  } catch {
    // The guest does not answer. What follows needs nothing of it.
  }
  try {
    await withQmp({ folder: files.sockets, name: QMP_SOCKET }, QUIT_MS, (qmp) => qmp.execute("quit"));
    if (await untilGone(identity, QUIT_MS)) return;
  } catch {
    // QEMU does not answer either, or has ended before it could.
  }
  await killQemu(state);
}
