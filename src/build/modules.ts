import { posix } from "node:path";

import { ImageError } from "../errors.js";
import { type CpioEntry, writeCpio } from "./cpio.js";
import { findSection } from "./elf.js";
import { unpack } from "./unpack.js";

/** What the guest needs before its root filesystem is there, and what a container-like workload is likely to ask for. */
const GUEST_MODULES: readonly string[] = [
  "virtio_pci",
  "virtio_mmio",
  "virtio_console",
  "virtio_blk",
  "virtio_rng",
  "virtio_net",
  "crc32c_generic",
  "ext4",
  "overlay",
];

/** What these depend on in the kernels seen so far: only spares a second look into the package. */
const USUAL_DEPENDENCIES: readonly string[] = [
  "virtio",
  "virtio_ring",
  "virtio_pci_modern_dev",
  "virtio_pci_legacy_dev",
  "failover",
  "net_failover",
  "jbd2",
  "mbcache",
  "crc16",
];

/** Without these no machine can be driven, so their absence is an error and not a smaller initrd. */
const INDISPENSABLE: readonly string[] = ["virtio_console", "virtio_blk", "ext4"];

const MODULE_FILE = /\.ko(\.(xz|zst|gz))?$/;
const MAX_MODULE = 64 * 1024 * 1024;

/** The name of the module in a file; null if the file is no module. Where file names have hyphens, modules have underscores. */
export function moduleName(path: string): string | null {
  return MODULE_FILE.test(path) ? underscored(posix.basename(path).replace(MODULE_FILE, "")) : null;
}

function underscored(name: string): string {
  return name.replaceAll("-", "_");
}

export interface LoadableModule {
  readonly name: string;
  readonly data: Buffer;
}

/** The names of all modules that are likely to be asked for. */
export const LIKELY_MODULES: ReadonlySet<string> = new Set([...GUEST_MODULES, ...USUAL_DEPENDENCIES]);

/** A kernel's modules as its package has them. */
export interface ModulePackage {
  /** The text of modules.builtin: what the kernel has without a module. */
  readonly builtin: string;
  /** By name, the files of those of `LIKELY_MODULES` that the package has, compressed or not. */
  readonly likely: ReadonlyMap<string, Buffer>;
  /** The same for any names. */
  load(names: ReadonlySet<string>): Promise<ReadonlyMap<string, Buffer>>;
}

/**
 * Picks what the guest needs and all it depends on, each module after those it depends on. What is built in needs no module.
 *
 * Errors: ImageError IMAGE_INVALID for a kernel that lacks what no machine can do without, and for damaged modules.
 */
export async function selectModules(source: ModulePackage): Promise<LoadableModule[]> {
  const names = new Set(LIKELY_MODULES);
  let files = source.likely;
  const builtin = new Set(source.builtin.split("\n").map(moduleName));
  for (;;) {
    const selection = new Selection(files, builtin);
    for (const name of GUEST_MODULES) await selection.add(name);
    const lacking = [...selection.lacking];
    // A dependency that was not asked for yet is asked for; one that was, and is not there, is missing for good.
    const needed = lacking.filter((name) => !GUEST_MODULES.includes(name) || INDISPENSABLE.includes(name));
    const missing = needed.find((name) => names.has(name));
    if (missing !== undefined) {
      throw new ImageError("IMAGE_INVALID", `The kernel has no module '${missing}', neither as a file nor built in.`);
    }
    if (needed.length === 0) return selection.ordered;
    for (const name of needed) names.add(name);
    files = await source.load(names);
  }
}

class Selection {
  readonly ordered: LoadableModule[] = [];
  /** Wanted, but neither a file nor built in. */
  readonly lacking = new Set<string>();
  readonly #files: ReadonlyMap<string, Buffer>;
  readonly #builtin: ReadonlySet<string | null>;
  readonly #visited = new Set<string>();

  constructor(files: ReadonlyMap<string, Buffer>, builtin: ReadonlySet<string | null>) {
    this.#files = files;
    this.#builtin = builtin;
  }

  async add(name: string): Promise<void> {
    if (this.#visited.has(name) || this.#builtin.has(name)) return;
    this.#visited.add(name); // at once: modules that depend on each other would otherwise never end
    const file = this.#files.get(name);
    if (file === undefined) {
      this.lacking.add(name);
      return;
    }
    const data = await unpack(file, `The kernel module '${name}'`, MAX_MODULE);
    for (const dependency of dependencies(name, data)) await this.add(dependency);
    this.ordered.push({ name, data });
  }
}

/** The modules as an initramfs: files in /lib/smolvm/modules, and in modules.order beside it their names in the order of loading. */
export function moduleInitrd(modules: readonly LoadableModule[]): Buffer {
  const folder = "lib/smolvm/modules";
  const entries: CpioEntry[] = ["lib", "lib/smolvm", folder].map((path) => ({ path, type: "directory", mode: 0o755 }));
  for (const { name, data } of modules) entries.push({ path: `${folder}/${name}.ko`, type: "file", mode: 0o644, data });
  const order = modules.map(({ name }) => `${name}.ko\n`).join("");
  entries.push({ path: "lib/smolvm/modules.order", type: "file", mode: 0o644, data: Buffer.from(order) });
  return writeCpio(entries);
}

/** What a module says of itself: "key=value" strings in the section .modinfo. */
function dependencies(name: string, data: Buffer): string[] {
  const information = findSection(data, ".modinfo");
  if (information === null)
    throw new ImageError("IMAGE_INVALID", `The file of the kernel module '${name}' is no module.`);
  const lines = information.toString("latin1").split("\0");
  const depends = lines.find((line) => line.startsWith("depends="))?.slice("depends=".length) ?? "";
  return depends.split(",").filter(Boolean).map(underscored);
}
