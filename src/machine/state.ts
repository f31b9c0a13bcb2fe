import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createHash, randomBytes } from "node:crypto";
import { basename, dirname, join } from "node:path";

import { HostError, VMAlreadyExistsError } from "../errors.js";
import { isErrno } from "../host/errno.js";
import { makeFolder } from "../host/folder.js";
import { machinesDir } from "../host/home.js";
import { liveness, processIdentity, type ProcessIdentity } from "../host/process.js";
import type { Accelerator, NetworkMode } from "../hypervisor/index.js";
import type { AcceleratorWish, DiskMode, DriveRecord } from "./config.js";
import { hostFailure } from "./host-failure.js";

export type VMStatus = "created" | "running" | "stopped" | "error";

/** What is known of the QEMU of a machine. Written before it is started, so that it is found after any crash. */
export interface RunRecord {
  /** Stands on QEMU's command line as its UUID. */
  readonly token: string;
  readonly startedAt: string;
  /** Null until it has been started. */
  readonly qemu: ProcessIdentity | null;
  readonly accelerator: Accelerator;
  readonly acceleratorReason: string;
  readonly vcpus: number;
}

export interface ForwardedPort {
  readonly guestPort: number;
  readonly hostPort: number;
}

/** machine.json: everything about a machine that outlasts a process. */
export interface MachineState {
  readonly version: 1;
  readonly vmId: string;
  readonly createdAt: string;
  /** It outlives the program that made it. */
  readonly detached: boolean;
  readonly owner: ProcessIdentity | null;
  readonly status: VMStatus | "starting";
  /** Why it is stopped or in error, in words. */
  readonly reason: string | null;
  /** The image's name, where it came from one. */
  readonly image: string | null;
  /** The image cache that has a lease for it. */
  readonly cacheDir: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath: string | null;
  readonly bootArgs: string | null;
  /** Null: the accelerator's default. */
  readonly vcpuCount: number | null;
  readonly memSizeMib: number;
  readonly diskMode: DiskMode;
  readonly diskSizeMib: number | null;
  readonly extraDrives: readonly DriveRecord[];
  readonly network: NetworkMode;
  readonly accel: AcceleratorWish;
  readonly env: Readonly<Record<string, string>>;
  readonly ports: readonly ForwardedPort[];
  readonly run: RunRecord | null;
}

const STAGING = ".new-";
const TRASH = ".trash-";
const LOCK = ".lock-";

/** The files of a machine's folder. The folder is the owner's alone; QEMU gets in only where `sockets` is. */
export function machineFiles(folder: string) {
  return {
    folder,
    state: join(folder, "machine.json"),
    disk: join(folder, "disk.qcow2"),
    initrd: join(folder, "initrd.img"),
    kernel: join(folder, "kernel"),
    console: join(folder, "console.log"),
    log: join(folder, "qemu.log"),
    // Beside the folder: it is for the name, whatever becomes of the folder meanwhile.
    lock: join(dirname(folder), `${LOCK}${basename(folder)}`),
    /** When an owner that can't be looked at was first found to give no sign of life. */
    silent: join(folder, "silent"),
    lanes: join(folder, "lanes"),
    sockets: join(folder, "run"),
  } as const;
}

export type MachineFiles = ReturnType<typeof machineFiles>;

export function machineFolder(vmId: string): string {
  return join(machinesDir(), vmId);
}

/**
 * Makes a machine's folder. It is filled beside its place and then renamed, so a folder that has a machine's name is complete,
 * and of two programs that want one name exactly one gets it.
 *
 * @throws VMAlreadyExistsError
 */
export async function claimFolder(state: MachineState): Promise<MachineFiles> {
  const parent = machinesDir();
  makeFolder(parent, { mode: 0o700 });
  const staging = join(parent, `${STAGING}${makerTag()}.${randomBytes(6).toString("hex")}`);
  await mkdir(staging, { mode: 0o700 });
  const folder = machineFolder(state.vmId);
  try {
    await mkdir(machineFiles(staging).lanes, { mode: 0o700 });
    await writeFile(machineFiles(staging).state, JSON.stringify(state), { mode: 0o600 });
    // Renaming a folder onto one that has something in it fails.
    await rename(staging, folder);
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOTEMPTY" || code === "EEXIST") throw new VMAlreadyExistsError(state.vmId, { cause: error });
    throw error;
  }
  return machineFiles(folder);
}

/** Says who is making a folder before there is anything in it: host and container, pid, start. */
export function makerTag(): string {
  const { pid, started, scope } = processIdentity() ?? { pid: process.pid, started: "", scope: null };
  const where = createHash("sha256").update(JSON.stringify(scope)).digest("hex").slice(0, 12);
  return `${where}.${pid}.${Buffer.from(started).toString("hex")}`;
}

/** True when the process that was making this folder is certainly gone. */
export function makerIsGone(folder: string): boolean {
  const [where, pid, started = ""] = basename(folder).slice(STAGING.length).split(".");
  const own = processIdentity();
  if (own === null || where !== makerTag().split(".")[0]) return false;
  return liveness({ ...own, pid: Number(pid), started: Buffer.from(started, "hex").toString() }) === "dead";
}

export async function saveState(files: MachineFiles, state: MachineState): Promise<void> {
  const temporary = `${files.state}.${randomBytes(4).toString("hex")}`;
  try {
    await writeFile(temporary, JSON.stringify(state), { mode: 0o600 });
    await rename(temporary, files.state);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Null when there is no such machine, or nothing legible of it. */
export async function loadState(vmId: string): Promise<MachineState | null> {
  return readState(machineFolder(vmId));
}

/**
 * Null when the machine is gone for certain, also if another one has its name by now.
 * @throws HostError where that can't be told: who takes a machine that runs for deleted lets go of it.
 */
export async function loadSame({
  vmId,
  createdAt,
}: Pick<MachineState, "vmId" | "createdAt">): Promise<MachineState | null> {
  const files = machineFiles(machineFolder(vmId));
  let text: string;
  try {
    text = await readFile(files.state, "utf8");
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR")) return null;
    throw hostFailure(error, `Looking at the machine '${vmId}'`);
  }
  const state = parseState(text);
  if (state === null) {
    throw new HostError("HOST_IO", `What is known of the machine '${vmId}' is damaged.`, {
      hint: `Delete it: smolvm rm --force ${vmId}`,
      details: { vmId, path: files.state },
    });
  }
  return state.createdAt === createdAt ? state : null;
}

export async function readState(folder: string): Promise<MachineState | null> {
  try {
    return parseState(await readFile(machineFiles(folder).state, "utf8"));
  } catch {
    return null; // no file, or none that can be read
  }
}

function parseState(text: string): MachineState | null {
  try {
    const parsed = JSON.parse(text) as Partial<MachineState>;
    return parsed.version === 1 && typeof parsed.vmId === "string" ? (parsed as MachineState) : null;
  } catch {
    return null; // a crash of the host has cut it
  }
}

export interface FoundFolder {
  readonly folder: string;
  /** "staging": being made. "removed": being removed. "lock": of a machine that is being changed. */
  readonly kind: "machine" | "staging" | "removed" | "lock";
  readonly state: MachineState | null;
}

const KINDS = [
  [STAGING, "staging"],
  [TRASH, "removed"],
  [LOCK, "lock"],
] as const;

export async function findFolders(): Promise<FoundFolder[]> {
  const parent = machinesDir();
  const names = await readdir(parent).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  });
  return Promise.all(
    names.map(async (name) => {
      const folder = join(parent, name);
      const kind = KINDS.find(([prefix]) => name.startsWith(prefix))?.[1] ?? "machine";
      return { folder, kind, state: await readState(folder) } as const;
    }),
  );
}

/** Frees the machine's name at once, then removes what was there. Nothing happens if it is gone already. */
export async function removeFolder(folder: string): Promise<void> {
  const trash = join(machinesDir(), `${TRASH}${randomBytes(8).toString("hex")}`);
  try {
    await rename(folder, trash);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  // A program that sweeps may be removing the same at the same time.
  await rm(trash, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 });
}

/** Milliseconds since the folder was last changed. */
export async function folderAge(folder: string): Promise<number> {
  try {
    return Date.now() - (await stat(folder)).mtimeMs;
  } catch {
    return 0; // gone in the meantime
  }
}
