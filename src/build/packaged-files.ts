import { ImageError } from "../errors.js";
import type { Apt, DownloadedPackage } from "./apt.js";
import { readDeb } from "./deb.js";
import type { Arch } from "./kernel.js";
import { LIKELY_MODULES, moduleName } from "./modules.js";

/* Debian's small kernel for virtual machines, its general one, and Ubuntu's for virtual machines. */
const KERNELS: Readonly<Record<Arch, readonly string[]>> = {
  x86_64: ["linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual"],
  arm64: ["linux-image-cloud-arm64", "linux-image-arm64", "linux-image-virtual"],
};
export const BUSYBOX = "busybox-static";

/** The packages that a kernel's meta package stands for: the image, and where the distribution parts them, its modules. */
export async function kernelPackages(apt: Apt, arch: Arch): Promise<string[]> {
  const found = new Set<string>();
  const meta = await apt.first(KERNELS[arch]);
  const waiting = [meta];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    for (const dependency of await apt.dependencies(name)) {
      if (!/^linux-(image|modules)-/.test(dependency) || found.has(dependency)) continue;
      found.add(dependency);
      waiting.push(dependency);
    }
  }
  // Meta packages on the way hold nothing; real ones have the kernel's version in their name.
  const real = [...found].filter((name) => /-\d+\.\d+/.test(name));
  return real.length > 0 ? real : [meta];
}

export interface BootFiles {
  readonly kernel: Buffer;
  /** See `ModulePackage`. */
  readonly builtin: string;
  readonly likely: ReadonlyMap<string, Buffer>;
  readonly busybox: Buffer;
  /** When BusyBox was built: a time that depends on the package alone. */
  readonly time: number;
}

export async function bootFiles(
  packages: readonly DownloadedPackage[],
  signal: AbortSignal | undefined,
): Promise<BootFiles> {
  let kernel: Buffer | undefined;
  let builtin = "";
  const likely = new Map<string, Buffer>();
  let busybox: Buffer | undefined;
  let time = 0;
  for await (const file of filesIn(packages, signal)) {
    const { path, mtime } = file;
    if (/^boot\/vmlinuz-/.test(path)) kernel = await collect(file);
    else if (path.endsWith("/modules.builtin")) builtin = (await collect(file)).toString("utf8");
    else if (/^(usr\/)?bin\/busybox$/.test(path)) {
      busybox = await collect(file);
      time = mtime;
    } else {
      const name = moduleName(path);
      if (name !== null && LIKELY_MODULES.has(name)) likely.set(name, await collect(file));
    }
  }
  const names = packages.map(({ name }) => name).join(", ");
  if (kernel === undefined) throw new ImageError("IMAGE_INVALID", `No kernel is in the packages ${names}.`);
  if (busybox === undefined) throw new ImageError("IMAGE_INVALID", `No BusyBox is in the packages ${names}.`);
  return { kernel, builtin, likely, busybox, time };
}

export async function moduleFiles(
  packages: readonly DownloadedPackage[],
  names: ReadonlySet<string>,
  signal: AbortSignal | undefined,
): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for await (const file of filesIn(packages, signal)) {
    const name = moduleName(file.path);
    if (name !== null && names.has(name)) files.set(name, await collect(file));
  }
  return files;
}

interface PackagedFile {
  readonly path: string;
  readonly size: number;
  readonly mtime: number;
  readonly content: AsyncIterable<Buffer>;
}

async function* filesIn(
  packages: readonly DownloadedPackage[],
  signal: AbortSignal | undefined,
): AsyncGenerator<PackagedFile> {
  for (const each of packages) {
    for await (const { type, path, size, mtime, content } of readDeb(each.path, signal)) {
      if (type === "file") yield { path: path.toString("utf8").replace(/^\.?\/+/, ""), size, mtime, content };
    }
  }
}

/** Kernels are some 15 MiB, 50 MiB where they come unpacked. What is collected is kept in memory, so there is a limit. */
const MAX_FILE = 256 * 1024 * 1024;

async function collect({ path, size, content }: PackagedFile): Promise<Buffer> {
  if (size > MAX_FILE)
    throw new ImageError("IMAGE_INVALID", `The packaged file '${path}' has ${size} bytes; the most is ${MAX_FILE}.`);
  const chunks: Buffer[] = [];
  for await (const chunk of content) chunks.push(chunk);
  return Buffer.concat(chunks);
}
