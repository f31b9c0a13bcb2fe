import type { GuestArch } from "../guest/index.js";

export type Accelerator = "kvm" | "hvf" | "tcg";

export type NetworkMode = "restricted" | "open" | "none";

/** A disk as the hypervisor sees it. File descriptors are of the process that starts QEMU. */
export type Disk =
  | { readonly kind: "overlay"; readonly overlayFd: number; readonly baseFd: number }
  | { readonly kind: "raw"; readonly fd: number; readonly readOnly: boolean };

/** Everything that a hypervisor needs to know to start one machine. */
export interface MachineSpec {
  readonly vmId: string;
  /** Unique for this start: it stands on QEMU's command line, where a sweeper finds it after any crash. */
  readonly token: string;
  readonly arch: GuestArch;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly accelerator: Accelerator;
  readonly network: NetworkMode;
  readonly kernelFd: number;
  readonly initrdFd: number;
  readonly commandLine: string;
  /** In the guest's order: vda, vdb, … */
  readonly disks: readonly Disk[];
  /** Open for appending: QEMU writes the guest's console there. */
  readonly consoleFd: number;
}

/** Fixed names in the folder that QEMU runs in. They are relative, as a socket's path may have 107 bytes at most. */
export const LANES = 8;
export const laneSocket = (lane: number): string => `lane${lane}`;
export const QMP_SOCKET = "qmp";
/** Where the guest's outgoing frames leave QEMU and where those that may go on come back: "open" networking only. */
export const EGRESS_SOCKETS = { out: "egress-out", back: "egress-back" } as const;

/** The guest's side of the built-in network, the same in every machine. */
export const GUEST_NETWORK = {
  address: "10.0.2.15",
  prefix: 24,
  gateway: "10.0.2.2",
  dns: "10.0.2.3",
} as const;
