import type { AgentInfo } from "../guest/index.js";
import type { Accelerator, NetworkMode } from "../hypervisor/index.js";
import type { DiskMode } from "./config.js";
import { guestAddress } from "./furnish.js";
import { machineFolder, type ForwardedPort, type MachineState, type VMStatus } from "./state.js";

/** What is known of a machine. Frozen. Fields are null while they are not known. */
export interface VMInfo {
  readonly vmId: string;
  readonly status: VMStatus;
  /** Why it is stopped or in error, when it was not asked to stop. */
  readonly reason: string | null;
  readonly detached: boolean;
  /** The image's name, where the machine was made from one. */
  readonly image: string | null;
  readonly kernelPath: string | null;
  readonly rootfsPath: string | null;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly startedAt: string | null;
  readonly accelerator: Accelerator | null;
  /** What was seen when the accelerator was chosen. */
  readonly acceleratorReason: string | null;
  readonly vcpuCount: number | null;
  readonly memSizeMib: number | null;
  readonly diskMode: DiskMode | null;
  readonly diskSizeMib: number | null;
  readonly network: NetworkMode | null;
  /** The guest's address while it runs. */
  readonly ip: string | null;
  readonly ports: readonly ForwardedPort[];
  /** QEMU's process on this host. */
  readonly pid: number | null;
  /** The guest kernel's release. */
  readonly kernel: string | null;
  readonly folder: string;
}

type Known = Partial<MachineState> & Pick<MachineState, "vmId" | "status" | "detached">;

export function machineInfo(state: Known, agent?: AgentInfo): VMInfo {
  const running = state.status === "running";
  return Object.freeze({
    vmId: state.vmId,
    status: state.status === "starting" ? "created" : state.status,
    reason: state.reason ?? null,
    detached: state.detached,
    image: state.image ?? null,
    kernelPath: state.kernelPath ?? null,
    rootfsPath: state.rootfsPath ?? null,
    createdAt: state.createdAt ?? "",
    startedAt: state.run?.startedAt ?? null,
    accelerator: state.run?.accelerator ?? null,
    acceleratorReason: state.run?.acceleratorReason ?? null,
    vcpuCount: state.run?.vcpus ?? state.vcpuCount ?? null,
    memSizeMib: state.memSizeMib ?? null,
    diskMode: state.diskMode ?? null,
    diskSizeMib: state.diskSizeMib ?? null,
    network: state.network ?? null,
    ip: running && state.network !== undefined ? guestAddress({ network: state.network }) : null,
    ports: Object.freeze([...(state.ports ?? [])]),
    pid: running ? (state.run?.qemu?.pid ?? null) : null,
    kernel: agent?.kernel ?? null,
    folder: machineFolder(state.vmId),
  });
}
