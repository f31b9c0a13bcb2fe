import { posix } from "node:path";

import { ImageError } from "../errors.js";
import { type CpioEntry, writeCpio } from "./cpio.js";
import { findSection } from "./elf.js";
import { unpack } from "./unpack.js";

/** What the guest needs before its root filesystem is there, and what a container-like workload is likely to ask for. */
export const GUEST_MODULES: readonly string[] = [
  "virtio_pci",
  "virtio_mmio",
  "virtio_console",
  "virtio_blk",
  "virtio_rng",
  "virtio_net",
  "ext4",
  "crc32c",
  "overlay",
];

/** Without these no machine can be driven, so their absence is an error and not a smaller initrd. */
const INDISPENSABLE: readonly string[] = ["virtio_console", "virtio_blk", "ext4"];

const MODULE_FILE = /\.ko(\.(xz|zst|gz))?$/;
const MAX_MODULE = 64 * 1024 * 1024;

export function isModuleFile(path: string): boolean {
  return MODULE_FILE.test(path);
}

/** A kernel's modules as its package has them. */
export interface ModuleFiles {
  /** Module files by path, compressed or not. */
  readonly files: ReadonlyMap<string, Buffer>;
  /** The text of modules.builtin: what the kernel has without a module. */
  readonly builtin: string;
}

export interface LoadableModule {
  readonly name: string;
  readonly data: Buffer;
}

/** Picks the wanted modules and all they depend on, each after what it depends on. What is built in needs no module. */
export async function selectModules(
  modules: ModuleFiles,
  wanted: readonly string[] = GUEST_MODULES,
): Promise<LoadableModule[]> {
  const paths = new Map([...modules.files.keys()].map((path) => [moduleName(path), path]));
  const builtin = new Set(modules.builtin.split("\n").filter(Boolean).map(moduleName));
  const ordered: LoadableModule[] = [];
  const state = new Map<string, "underway" | "done">();
  const visit = async (name: string, needed: boolean): Promise<void> => {
    if (state.get(name) === "done" || builtin.has(name)) return;
    if (state.get(name) === "underway")
      throw new ImageError("IMAGE_INVALID", `The kernel module '${name}' depends on itself.`);
    const path = paths.get(name);
    const file = path === undefined ? undefined : modules.files.get(path);
    if (file === undefined) {
      if (!needed) return;
      throw new ImageError("IMAGE_INVALID", `The kernel has no module '${name}', neither as a file nor built in.`);
    }
    state.set(name, "underway");
    const data = await unpack(file, `The kernel module '${name}'`, MAX_MODULE);
    for (const dependency of dependencies(name, data)) await visit(dependency, true);
    ordered.push({ name, data });
    state.set(name, "done");
  };
  for (const name of wanted) await visit(name, INDISPENSABLE.includes(name));
  return ordered;
}

/** The modules as an initramfs: files below /lib/smolvm/modules, and in modules.order their names in the order of loading. */
export function moduleInitrd(modules: readonly LoadableModule[]): Buffer {
  const folder = "lib/smolvm/modules";
  const entries: CpioEntry[] = ["lib", "lib/smolvm", folder].map((path) => ({ path, type: "directory", mode: 0o755 }));
  for (const { name, data } of modules) entries.push({ path: `${folder}/${name}.ko`, type: "file", mode: 0o644, data });
  const order = modules.map(({ name }) => `${name}.ko\n`).join("");
  entries.push({ path: `${folder}/modules.order`, type: "file", mode: 0o644, data: Buffer.from(order) });
  return writeCpio(entries);
}

/** A module's file may have hyphens where its name, and what others call it, has underscores. */
function moduleName(path: string): string {
  return posix.basename(path).replace(MODULE_FILE, "").replaceAll("-", "_");
}

/** What a module says of itself: "key=value" strings in the section .modinfo. */
function dependencies(name: string, data: Buffer): string[] {
  const information = findSection(data, ".modinfo");
  if (information === null)
    throw new ImageError("IMAGE_INVALID", `The file of the kernel module '${name}' is no module.`);
  const lines = information.toString("latin1").split("\0");
  const depends = lines.find((line) => line.startsWith("depends="))?.slice("depends=".length) ?? "";
  return depends.split(",").filter(Boolean).map(moduleName);
}
