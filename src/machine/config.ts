import { randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { inspect } from "node:util";

import { ValidationError } from "../errors.js";
import type { NetworkMode } from "../hypervisor/index.js";
import { assertEnvVars } from "./environment.js";

export type DiskMode = "isolated" | "shared";
export type AcceleratorWish = "auto" | "kvm" | "hvf" | "tcg";

/** A raw disk image that the guest sees as /dev/vdb, /dev/vdc, … in the order given. */
export interface ExtraDrive {
  readonly path: string;
  /** Default false: what the guest writes goes to the file. A second machine can't have it writable at the same time. */
  readonly readOnly?: boolean | undefined;
}

/** An extra drive with its default filled in. */
export interface DriveRecord {
  readonly path: string;
  readonly readOnly: boolean;
}

export interface VMConfigFields {
  /** `^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$`. Default: "vm-" and eight hex digits. */
  readonly vmId?: string | undefined;
  /** A bzImage, a vmlinux with a PVH entry, or an arm64 Image. */
  readonly kernelPath: string;
  /** A file system without a partition table: ext2/3/4, squashfs, erofs, xfs or btrfs. */
  readonly rootfsPath: string;
  /** Holds the kernel modules that the kernel needs to reach its disk. Default: that of the cached image the kernel is of. */
  readonly initrdPath?: string | null | undefined;
  /** Added at the end of the kernel's command line. */
  readonly bootArgs?: string | null | undefined;
  /** 1 to 32. Default 2, and 1 under software emulation. */
  readonly vcpuCount?: number | undefined;
  /** 128 to 16384. Default 512. */
  readonly memSizeMib?: number | undefined;
  /** "isolated" (default): writes go to a private copy-on-write disk. "shared": they go to `rootfsPath` itself. */
  readonly diskMode?: DiskMode | undefined;
  /** At least the size of the root file system, which then fills the disk: ext4 always, xfs and btrfs where the guest has their tool. Default: its size. */
  readonly diskSizeMib?: number | null | undefined;
  readonly extraDrives?: readonly (string | ExtraDrive)[] | undefined;
  /** Environment of every command in the machine. */
  readonly envVars?: Readonly<Record<string, string>> | undefined;
  /** "restricted" (default): an address and forwarded ports, no way out. "open": reaches outside, not the host. "none". */
  readonly network?: NetworkMode | undefined;
  /** "qemu" is the one there is; "auto" (default) chooses it. */
  readonly backend?: "auto" | "qemu" | undefined;
  /** "auto" (default) takes the hardware's accelerator when a guest has been seen to run on it, else software emulation. */
  readonly accel?: AcceleratorWish | undefined;
}

const FIELDS = [
  "vmId",
  "kernelPath",
  "rootfsPath",
  "initrdPath",
  "bootArgs",
  "vcpuCount",
  "memSizeMib",
  "diskMode",
  "diskSizeMib",
  "extraDrives",
  "envVars",
  "network",
  "backend",
  "accel",
] as const satisfies readonly (keyof VMConfigFields)[];

export const CONFIG_FIELDS: readonly string[] = FIELDS;

const VM_ID = /^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$/;
/** Linux takes 2048 bytes on x86-64 and arm64 (COMMAND_LINE_SIZE), and smolvm's own part needs some of them. */
const BOOT_ARGS_LIMIT = 1536;
const MAX_DISK_MIB = 2 * 1024 * 1024;
/** vda is the root disk; the guest's agent names the others up to vdz. */
const MAX_EXTRA_DRIVES = 16;

/**
 * What a machine is to be. Frozen, with defaults filled in; `initrdPath`, `bootArgs` and `diskSizeMib` are null when not given.
 *
 * @throws ValidationError naming the field, its value and what is allowed: also for an unknown field and for a path where no
 *   regular file is. Whether the files are what they claim is found when the machine starts.
 */
export class VMConfig {
  readonly vmId: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath: string | null;
  readonly bootArgs: string | null;
  /** When not given: 2, and 1 as soon as software emulation is chosen. */
  readonly vcpuCount: number;
  readonly memSizeMib: number;
  readonly diskMode: DiskMode;
  readonly diskSizeMib: number | null;
  readonly extraDrives: readonly DriveRecord[];
  readonly envVars: Readonly<Record<string, string>>;
  readonly network: NetworkMode;
  readonly backend: "auto" | "qemu";
  readonly accel: AcceleratorWish;

  constructor(fields: VMConfigFields) {
    assertKnownFields("VMConfig", fields, FIELDS);
    this.vmId = fields.vmId === undefined ? newVmId() : assertVmId(fields.vmId);
    this.kernelPath = regularFile("kernelPath", fields.kernelPath);
    this.rootfsPath = regularFile("rootfsPath", fields.rootfsPath);
    this.initrdPath = given(fields.initrdPath) ? regularFile("initrdPath", fields.initrdPath) : null;
    this.bootArgs = given(fields.bootArgs) ? bootArgs(fields.bootArgs) : null;
    this.accel = oneOf("accel", fields.accel ?? "auto", ["auto", "kvm", "hvf", "tcg"]);
    this.vcpuCount = integer("vcpuCount", fields.vcpuCount ?? (this.accel === "tcg" ? 1 : 2), 1, 32);
    if (fields.vcpuCount === undefined) defaultVcpus.add(this);
    this.memSizeMib = integer("memSizeMib", fields.memSizeMib ?? 512, 128, 16384);
    this.diskMode = oneOf("diskMode", fields.diskMode ?? "isolated", ["isolated", "shared"]);
    this.diskSizeMib = given(fields.diskSizeMib) ? integer("diskSizeMib", fields.diskSizeMib, 1, MAX_DISK_MIB) : null;
    if (this.diskSizeMib !== null && this.diskMode === "shared") {
      throw invalid("diskSizeMib", this.diskSizeMib, 'nothing with diskMode "shared", which takes the file as it is');
    }
    this.extraDrives = extraDrives(fields.extraDrives ?? []);
    this.envVars = Object.freeze({ ...assertEnvVars("envVars", fields.envVars ?? {}) });
    this.network = oneOf("network", fields.network ?? "restricted", ["restricted", "open", "none"]);
    this.backend = oneOf("backend", fields.backend ?? "auto", ["auto", "qemu"]);
    Object.freeze(this);
  }
}

const defaultVcpus = new WeakSet<VMConfig>();

/** The number that was asked for, or null when the default of the accelerator applies. */
export function wantedVcpus(config: VMConfig): number | null {
  return defaultVcpus.has(config) ? null : config.vcpuCount;
}

export function newVmId(): string {
  return `vm-${randomBytes(4).toString("hex")}`;
}

/** @throws ValidationError */
export function assertVmId(value: unknown): string {
  if (typeof value === "string" && VM_ID.test(value)) return value;
  throw invalid("vmId", value, `1 to 64 of a-z, 0-9, "_" and "-", with a letter or digit at both ends`);
}

/** @throws ValidationError naming the fields that are not known. */
export function assertKnownFields(owner: string, fields: unknown, allowed: readonly string[]): void {
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new ValidationError(`${owner} needs an object with the fields ${allowed.join(", ")}.`);
  }
  const unknown = Object.keys(fields).filter((key) => !allowed.includes(key));
  if (unknown.length === 0) return;
  const names = unknown.map((key) => `'${key}'`).join(", ");
  throw new ValidationError(`${owner} has no field ${names}. Allowed are ${allowed.join(", ")}.`, {
    details: { fields: unknown, allowed },
  });
}

/** @throws ValidationError */
export function integer(field: string, value: unknown, least: number, most: number): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most) return value;
  throw invalid(field, value, `a whole number from ${least} to ${most}`);
}

export function invalid(field: string, value: unknown, allowed: string): ValidationError {
  const shown = value === undefined ? "missing" : inspect(value, { depth: 0, breakLength: Infinity }).slice(0, 200);
  return new ValidationError(`${field} is ${shown}; allowed is ${allowed}.`, { details: { field, value, allowed } });
}

/** @throws ValidationError */
export function oneOf<const T extends string>(field: string, value: unknown, allowed: readonly T[]): T {
  const found = allowed.find((choice) => choice === value);
  if (found === undefined) throw invalid(field, value, allowed.map((choice) => `"${choice}"`).join(", "));
  return found;
}

function given<T>(value: T): value is NonNullable<T> {
  return value !== undefined && value !== null;
}

function regularFile(field: string, value: unknown): string {
  if (typeof value !== "string" || value === "" || value.includes("\0")) throw invalid(field, value, "a path");
  const path = resolve(value);
  let isFile: boolean;
  try {
    isFile = statSync(path).isFile();
  } catch (error) {
    throw new ValidationError(`${field} is '${path}', which can't be read: ${(error as NodeJS.ErrnoException).code}.`, {
      cause: error,
      details: { field, value: path },
    });
  }
  if (!isFile) throw invalid(field, path, "the path of a regular file");
  return path;
}

function bootArgs(value: unknown): string {
  if (typeof value !== "string" || Buffer.byteLength(value) > BOOT_ARGS_LIMIT || /\p{Cc}/u.test(value)) {
    throw invalid("bootArgs", value, `one line of at most ${BOOT_ARGS_LIMIT} bytes`);
  }
  if (/(^|\s)"?smolvm\./.test(value))
    throw invalid("bootArgs", value, 'anything but smolvm\'s own "smolvm." arguments');
  return value;
}

function extraDrives(value: unknown): readonly DriveRecord[] {
  if (!Array.isArray(value) || value.length > MAX_EXTRA_DRIVES) {
    throw invalid("extraDrives", value, `a list of at most ${MAX_EXTRA_DRIVES} paths or { path, readOnly }`);
  }
  const drives = value.map((drive: unknown, index): DriveRecord => {
    const field = `extraDrives[${index}]`;
    if (typeof drive === "string") return Object.freeze({ path: regularFile(field, drive), readOnly: false });
    assertKnownFields(field, drive, ["path", "readOnly"]);
    const { path, readOnly = false } = drive as ExtraDrive;
    if (typeof readOnly !== "boolean") throw invalid(`${field}.readOnly`, readOnly, "true or false");
    return Object.freeze({ path: regularFile(`${field}.path`, path), readOnly });
  });
  return Object.freeze(drives);
}
