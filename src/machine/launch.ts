import { open, stat, type FileHandle } from "node:fs/promises";

import {
  addressSpaceLimit,
  qemuCommand,
  startQemu,
  type Disk,
  type KernelFacts,
  type QemuFacts,
  type QemuProcess,
} from "../hypervisor/index.js";
import { kernelCommandLine } from "./command-line.js";
import { readableKernel, type MachineUser } from "./privilege.js";
import type { RootfsType } from "./rootfs.js";
import type { MachineFiles, MachineState, RunRecord } from "./state.js";

/** QEMU's messages, and a disk's own tables, besides what the disk holds. */
const FILE_SLACK = 256 * 1024 * 1024;

/** What has been found out and made for a start. */
export interface Preparation {
  readonly kernel: KernelFacts;
  readonly rootfsType: RootfsType;
  /** Bytes of the root disk. */
  readonly diskSize: number;
  readonly facts: QemuFacts;
  readonly user: MachineUser | null;
  readonly run: RunRecord;
}

/** Opens all that QEMU works with and starts it on those descriptors. */
export async function launch(files: MachineFiles, state: MachineState, made: Preparation): Promise<QemuProcess> {
  const opened: FileHandle[] = [];
  const descriptor = async (path: string, flags: string): Promise<number> => {
    const file = await open(path, flags, 0o600);
    opened.push(file);
    return file.fd;
  };
  try {
    const { run, user, kernel, facts } = made;
    const disks = [await rootDisk(files, state, descriptor)];
    let largest = made.diskSize;
    for (const { path, readOnly } of state.extraDrives) {
      disks.push({ kind: "raw", fd: await descriptor(path, readOnly ? "r" : "r+"), readOnly });
      if (!readOnly) largest = Math.max(largest, (await stat(path)).size);
    }
    const spec = {
      vmId: state.vmId,
      token: run.token,
      arch: kernel.arch,
      vcpus: run.vcpus,
      memoryMib: state.memSizeMib,
      accelerator: run.accelerator,
      network: state.network,
      kernelFd: await descriptor(await readableKernel(state.kernelPath, files, user), "r"),
      initrdFd: await descriptor(files.initrd, "r"),
      commandLine: kernelCommandLine({
        arch: kernel.arch,
        accelerator: run.accelerator,
        vcpus: run.vcpus,
        rootfsType: made.rootfsType,
        owned: !state.detached,
        bootArgs: state.bootArgs,
      }),
      disks,
      consoleFd: await descriptor(files.console, "a"),
    };
    return await startQemu(facts.binary, (folder) => qemuCommand(spec, facts, folder), {
      folder: files.sockets,
      logFd: await descriptor(files.log, "w"),
      confinement: {
        uid: user?.uid ?? null,
        group: user?.group ?? null,
        diesWith: process.platform === "linux" && !state.detached ? process.pid : null,
        addressSpace: addressSpaceLimit({ memoryMib: state.memSizeMib }),
        fileSize: largest + FILE_SLACK,
      },
      needs: { network: state.network !== "none", kvm: run.accelerator === "kvm" },
    });
  } finally {
    await Promise.all(opened.map((file) => file.close()));
  }
}

async function rootDisk(
  files: MachineFiles,
  state: MachineState,
  descriptor: (path: string, flags: string) => Promise<number>,
): Promise<Disk> {
  if (state.diskMode === "shared")
    return { kind: "raw", fd: await descriptor(state.rootfsPath, "r+"), readOnly: false };
  return {
    kind: "overlay",
    overlayFd: await descriptor(files.disk, "r+"),
    baseFd: await descriptor(state.rootfsPath, "r"),
  };
}
