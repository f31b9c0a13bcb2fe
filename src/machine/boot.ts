import { open, readFile, stat, type FileHandle } from "node:fs/promises";
import { randomUUID } from "node:crypto";

import { BootError, HostError, SmolVMError } from "../errors.js";
import {
  addressSpaceLimit,
  chooseAccelerator,
  GUEST_NETWORK,
  inspectKernel,
  qemuCommand,
  qemuFacts,
  startEgressFilter,
  startQemu,
  type Disk,
  type MachineSpec,
  type QemuProcess,
} from "../hypervisor/index.js";
import { kernelCommandLine } from "./command-line.js";
import { consoleTail, printable } from "./console-log.js";
import { createOverlay, diskSize } from "./disk.js";
import { growRootFileSystem, guestConfiguration } from "./furnish.js";
import { writeInitrd } from "./initrd.js";
import { openOwnLane, type Lane } from "./lanes.js";
import { machineUser, prepareSocketFolder, readableKernel } from "./privilege.js";
import { inspectRootfs } from "./rootfs.js";
import { saveState, type MachineFiles, type MachineState, type RunRecord } from "./state.js";

export interface BootOptions {
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
}

export interface RunningMachine {
  readonly qemu: QemuProcess;
  readonly lane: Lane;
  readonly state: MachineState;
}

type Phase = "spawn" | "kernel" | "agent" | "configure";

/** From QEMU's start to a configured guest. Hardware needs a second or two, emulation on a loaded host many more. */
const BOOT_TIMEOUT_MS = { tcg: 60_000, kvm: 30_000, hvf: 30_000 } as const;
/** QEMU's own files, and slack for a disk's metadata. */
const FILE_SLACK = 256 * 1024 * 1024;

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
  const [[facts, choice, user]] = await Promise.all([
    (async () => {
      const found = await qemuFacts(kernel.arch);
      const chosen = await chooseAccelerator(initial.accel, kernel.arch, found.binary);
      const owner = await machineUser(chosen.accelerator);
      await prepareSocketFolder(files, owner);
      return [found, chosen, owner] as const;
    })(),
    writeInitrd(files.initrd, initial.initrdPath, kernel.arch),
    firstStart ? createOverlay(files.disk, size) : undefined,
  ]);
  if (initial.network === "open" && !facts.redirector) {
    throw new HostError(
      "HOST_UNSUPPORTED",
      "This QEMU can't filter what a guest sends, so it offers no open network.",
      {
        hint: 'Use network "restricted" or "none", or a QEMU built with its network filters.',
      },
    );
  }
  signal?.throwIfAborted();

  const accelerator = choice.accelerator;
  const run: RunRecord = {
    token: randomUUID(),
    startedAt: new Date().toISOString(),
    qemu: null,
    accelerator,
    acceleratorReason: choice.reason,
    vcpus: initial.vcpuCount ?? (accelerator === "tcg" ? 1 : 2),
  };
  let state: MachineState = { ...initial, status: "starting", reason: null, ports: [], run };
  await saveState(files, state);

  const opened: FileHandle[] = [];
  const descriptor = async (path: string, flags: string): Promise<number> => {
    const file = await open(path, flags, 0o600);
    opened.push(file);
    return file.fd;
  };
  let qemu: QemuProcess;
  try {
    const isolated = initial.diskMode === "isolated";
    const root: Disk = isolated
      ? {
          kind: "overlay",
          overlayFd: await descriptor(files.disk, "r+"),
          baseFd: await descriptor(initial.rootfsPath, "r"),
        }
      : { kind: "raw", fd: await descriptor(initial.rootfsPath, "r+"), readOnly: false };
    const disks: Disk[] = [root];
    let largest = size;
    for (const { path, readOnly } of initial.extraDrives) {
      disks.push({ kind: "raw", fd: await descriptor(path, readOnly ? "r" : "r+"), readOnly });
      if (!readOnly) largest = Math.max(largest, (await stat(path)).size);
    }
    const spec: MachineSpec = {
      vmId: initial.vmId,
      token: run.token,
      arch: kernel.arch,
      vcpus: run.vcpus,
      memoryMib: initial.memSizeMib,
      accelerator,
      network: initial.network,
      kernelFd: await descriptor(await readableKernel(initial.kernelPath, files, user), "r"),
      initrdFd: await descriptor(files.initrd, "r"),
      commandLine: kernelCommandLine({
        arch: kernel.arch,
        accelerator,
        vcpus: run.vcpus,
        rootfsType: rootfs.type,
        owned: !initial.detached,
        bootArgs: initial.bootArgs,
      }),
      disks,
      consoleFd: await descriptor(files.console, "a"),
    };
    qemu = await startQemu(facts.binary, qemuCommand(spec, facts), {
      folder: files.sockets,
      logFd: await descriptor(files.log, "w"),
      confinement: {
        uid: user?.uid ?? null,
        group: user?.group ?? null,
        dieWithParent: process.platform === "linux" && !initial.detached,
        addressSpace: addressSpaceLimit({ memoryMib: initial.memSizeMib }),
        fileSize: largest + FILE_SLACK,
      },
    });
  } finally {
    await Promise.all(opened.map((file) => file.close()));
  }

  let phase: Phase = "spawn";
  let lane: Lane | undefined;
  const timeoutMs = options.timeoutMs ?? BOOT_TIMEOUT_MS[accelerator];
  const deadline = AbortSignal.timeout(timeoutMs);
  const died = new AbortController();
  void qemu.exited.then((exit) => died.abort(exit));
  const over = AbortSignal.any([deadline, died.signal, ...(signal ? [signal] : [])]);
  try {
    state = { ...state, run: { ...run, qemu: qemu.identity } };
    const saved = saveState(files, state);
    saved.catch(() => undefined); // awaited below, after what takes longer
    lane = await openOwnLane(files, {
      timeoutMs: timeoutMs + 1000, // the deadline above ends it first
      signal: over,
      onConnected: () => (phase = "kernel"),
      onAnswer: () => (phase = "agent"),
    });
    phase = "configure";
    using _ = lane.hold();
    const filter = initial.network === "open" ? startEgressFilter(files.sockets, over) : undefined;
    filter?.catch(() => undefined); // awaited below
    await Promise.all([lane.connection.configure(guestConfiguration(state), { signal: over }), filter, saved]);
    if (firstStart && size > rootfs.size) await growRootFileSystem(lane.connection, rootfs.type, over);
    state = { ...state, status: "running" };
    await saveState(files, state);
    qemu.unref();
    return { qemu, lane, state };
  } catch (error) {
    const exitedAlone = died.signal.aborted;
    await lane?.close();
    qemu.kill();
    const exit = await qemu.exited;
    if (signal?.aborted) throw signal.reason;
    const log = (await readFile(files.log, "utf8").catch(() => ""))
      .split("\n")
      .map(printable)
      .join("\n")
      .trim()
      .slice(-2000);
    const failure = {
      phase,
      accelerator,
      consoleTail: consoleTail(files.console),
      details: { vmId: initial.vmId, qemuLog: log, exit },
      cause: error,
    };
    if (exitedAlone && exit.status !== 0 && phase === "spawn") {
      throw new BootError(`QEMU did not start the machine: ${log.split("\n").at(-1) ?? ""}`, failure);
    }
    if (exitedAlone) {
      throw new BootError(`The guest ended while it was booting: ${lastWords(failure.consoleTail)}`, failure);
    }
    if (deadline.aborted) {
      throw new BootError(
        `The guest did not come up within ${timeoutMs} ms: ${lastWords(failure.consoleTail)}`,
        failure,
      );
    }
    if (error instanceof HostError) throw error;
    const reason = error instanceof SmolVMError || error instanceof Error ? error.message : String(error);
    throw new BootError(`The guest could not be set up: ${reason}`, failure);
  }
}

function lastWords(tail: readonly string[]): string {
  const panic = tail.find((line) => line.includes("Kernel panic"));
  return panic ?? tail.at(-1) ?? "it printed nothing";
}

async function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    () => true,
  );
}

/** The guest's address, or null in a machine without a network. */
export function guestAddress(state: Pick<MachineState, "network">): string | null {
  return state.network === "none" ? null : GUEST_NETWORK.address;
}
