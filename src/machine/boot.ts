import { randomUUID } from "node:crypto";
import { stat } from "node:fs/promises";

import { HostError } from "../errors.js";
import {
  chooseAccelerator,
  inspectKernel,
  qemuFacts,
  startEgressFilter,
  type KernelFacts,
  type QemuProcess,
} from "../hypervisor/index.js";
import { bootFailure, type BootPhase } from "./boot-failure.js";
import { beginConsole } from "./console-log.js";
import { within } from "./deadline.js";
import { createOverlay, diskSize } from "./disk.js";
import { growRootFileSystem, guestConfiguration } from "./furnish.js";
import { writeInitrd } from "./initrd.js";
import { openOwnLane, type Lane } from "./lanes.js";
import { launch, type Preparation } from "./launch.js";
import { machineUser, prepareSocketFolder, sealSocketFolder } from "./privilege.js";
import { inspectRootfs } from "./rootfs.js";
import { saveState, type MachineFiles, type MachineState } from "./state.js";

export interface BootOptions {
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** Called as soon as there is a process that has to be ended. */
  readonly onSpawn: (qemu: QemuProcess) => void;
}

export interface RunningMachine {
  readonly qemu: QemuProcess;
  readonly lane: Lane;
  readonly state: MachineState;
}

/** From QEMU's start to a configured guest. Hardware needs a second or two, emulation on a loaded host many more. */
const BOOT_TIMEOUT_MS = { tcg: 60_000, kvm: 30_000, hvf: 30_000 } as const;

const EXIT_GRACE_MS = 500;

/**
 * Starts a machine whose folder is there, and resolves when its guest answers. When it fails, nothing of it runs any more.
 *
 * @throws BootError, HostError, ImageError, ValidationError, or the signal's own reason.
 */
export async function boot(files: MachineFiles, initial: MachineState, options: BootOptions): Promise<RunningMachine> {
  const { signal } = options;
  const [kernel, rootfs] = await Promise.all([inspectKernel(initial.kernelPath), inspectRootfs(initial.rootfsPath)]);
  const size = diskSize(rootfs.size, initial.diskSizeMib);
  const firstStart = initial.diskMode === "isolated" && (await isMissing(files.disk));
  const [host] = await Promise.all([
    prepareHost(files, initial, kernel),
    writeInitrd(files.initrd, initial.initrdPath, kernel.arch),
    firstStart ? createOverlay(files.disk, size) : undefined,
  ]);
  signal?.throwIfAborted();

  // Saved before there is a process: whoever sweeps after a crash finds QEMU by the token.
  let state: MachineState = { ...initial, status: "starting", reason: null, ports: [], run: host.run };
  await saveState(files, state);
  await beginConsole(files.console);
  const qemu = await launch(files, state, { ...host, kernel, rootfsType: rootfs.type, diskSize: size });
  options.onSpawn(qemu);

  const { accelerator } = host.run;
  const timeoutMs = options.timeoutMs ?? BOOT_TIMEOUT_MS[accelerator];
  const deadline = AbortSignal.timeout(timeoutMs);
  const died = new AbortController();
  void qemu.exited.then((exit) => died.abort(exit));
  const over = AbortSignal.any([deadline, died.signal, ...(signal ? [signal] : [])]);
  let phase: BootPhase = "spawn";
  let lane: Lane | undefined;
  try {
    state = { ...state, run: { ...host.run, qemu: qemu.identity } };
    await saveState(files, state);
    lane = await openOwnLane(files, {
      timeoutMs: timeoutMs + 1000, // the deadline above comes first
      signal: over,
      onConnected: () => (phase = "kernel"),
      onAnswer: () => (phase = "agent"),
    });
    await sealSocketFolder(files, host.user);
    phase = "configure";
    await Promise.all([
      lane.connection.configure(guestConfiguration(state), { signal: over }),
      initial.network === "open" ? startEgressFilter(files.sockets, host.user?.uid ?? null, over) : undefined,
    ]);
    if (firstStart && size > rootfs.size) await growRootFileSystem(lane.connection, rootfs.type, over);
    state = { ...state, status: "running" };
    await saveState(files, state);
    qemu.unref();
    return { qemu, lane, state };
  } catch (error) {
    // Its sockets close a moment before the system tells that it has ended.
    if (!over.aborted) await within(qemu.exited, EXIT_GRACE_MS);
    const endedItself = died.signal.aborted;
    qemu.kill();
    lane?.close();
    const exit = await qemu.exited;
    signal?.throwIfAborted();
    const ending = endedItself ? { exit } : deadline.aborted ? { timeoutMs } : {};
    throw await bootFailure(files, { vmId: initial.vmId, phase, accelerator, cause: error, ...ending });
  }
}

/** Finds out what runs the machine, and makes a place for its sockets. */
async function prepareHost(
  files: MachineFiles,
  state: MachineState,
  kernel: KernelFacts,
): Promise<Pick<Preparation, "facts" | "user" | "run">> {
  const facts = await qemuFacts(kernel.arch);
  if (state.network === "open" && !facts.redirector) {
    throw new HostError(
      "HOST_UNSUPPORTED",
      "This QEMU can't filter what a guest sends, so it offers no open network.",
      {
        hint: 'Use network "restricted" or "none", or a QEMU built with its network filters.',
      },
    );
  }
  const { accelerator, reason } = await chooseAccelerator(state.accel, kernel.arch, facts.binary);
  const user = await machineUser(accelerator);
  await prepareSocketFolder(files, user);
  const run = {
    token: randomUUID(),
    startedAt: new Date().toISOString(),
    qemu: null,
    accelerator,
    acceleratorReason: reason,
    vcpus: state.vcpuCount ?? (accelerator === "tcg" ? 1 : 2),
  };
  return { facts, user, run };
}

async function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    () => true,
  );
}
