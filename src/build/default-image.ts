import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { HostError, ImageError, SmolVMError, ValidationError } from "../errors.js";
import { imageDir } from "../host/home.js";
import type { LocalImage } from "../images/index.js";
import { acquireLock, type AssetSource, ImageStore } from "../images/store/index.js";
import { Apt, type DownloadedPackage, hostArch } from "./apt.js";
import { readDeb } from "./deb.js";
import { type Arch, bootableKernel } from "./kernel.js";
import { LIKELY_MODULES, moduleInitrd, moduleName, selectModules } from "./modules.js";
import { writeRootfs } from "./rootfs.js";

export interface DefaultImageOptions {
  /** "x86_64" or "arm64". Default: the host's own. */
  readonly arch?: string | undefined;
  /** Default: `$SMOLVM_IMAGE_DIR`, else `~/.smolvm/images`. */
  readonly cacheDir?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told at the start of each step what is done now, such as "unpacking the kernel". */
  readonly onStep?: ((progress: { readonly step: string }) => void) | undefined;
}

const ARCHES: readonly Arch[] = ["x86_64", "arm64"];

/* Debian's small kernel for virtual machines, its general one, and Ubuntu's for virtual machines. */
const KERNELS: Readonly<Record<Arch, readonly string[]>> = {
  x86_64: ["linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual"],
  arm64: ["linux-image-cloud-arm64", "linux-image-arm64", "linux-image-virtual"],
};
const BUSYBOX = "busybox-static";

/**
 * The image for a machine where nobody named one: the distribution's own kernel for virtual machines and a small root filesystem
 * with a shell and the usual tools. From the cache if it is there and verified, else made of packages from the host's
 * configured and signed archive; nothing is installed on the host. Named "default", for another architecture than the host's
 * "default-arm64" or "default-x86_64".
 *
 * Errors: ValidationError for an unknown `arch`; HostError HOST_UNSUPPORTED on a host without apt; ImageError IMAGE_BUILD_FAILED
 * where a package can't be had or unpacked; the signal's own reason.
 */
export async function defaultImage(options: DefaultImageOptions = {}): Promise<LocalImage> {
  const arch = checkArch(options.arch);
  const store = new ImageStore(options.cacheDir ?? imageDir());
  const name = arch === hostArch() ? "default" : `default-${arch}`;
  options.signal?.throwIfAborted();
  const cached = await openCached(store, name, options.signal);
  if (cached !== null) return cached;
  try {
    // Of all who want it at once, in whatever process, one makes it.
    const lock = await acquireLock(join(store.layout.locks, `build-${name}`), options.signal);
    try {
      return (await openCached(store, name, options.signal)) ?? (await buildDefault(store, name, arch, options));
    } finally {
      lock.release();
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    throw buildFailure(error, name);
  }
}

/** The kernel of the default image, and the initrd with its modules. Made or found as by `defaultImage`. */
export async function defaultKernel(
  options: DefaultImageOptions = {},
): Promise<{ readonly kernelPath: string; readonly initrdPath: string }> {
  const { name, kernelPath, initrdPath } = await defaultImage(options);
  if (initrdPath === null) throw new ImageError("IMAGE_INVALID", `The image '${name}' has no initrd.`);
  return { kernelPath, initrdPath };
}

function checkArch(arch: string | undefined): Arch {
  const chosen = arch ?? hostArch();
  if (chosen === null) {
    throw new HostError("HOST_UNSUPPORTED", `Machines can't be run on a host of the architecture '${process.arch}'.`, {
      hint: `Use a host of one of ${ARCHES.join(", ")}.`,
    });
  }
  const known = ARCHES.find((each) => each === chosen);
  if (known === undefined) {
    throw new ValidationError(`Bad arch: '${chosen}'. It must be one of ${ARCHES.join(", ")}.`, {
      details: { field: "arch", value: chosen, allowed: ARCHES },
    });
  }
  return known;
}

async function openCached(
  store: ImageStore,
  name: string,
  signal: AbortSignal | undefined,
): Promise<LocalImage | null> {
  const found = await store.open(name, { signal });
  return found === null || "damaged" in found ? null : found;
}

async function buildDefault(
  store: ImageStore,
  name: string,
  arch: Arch,
  options: DefaultImageOptions,
): Promise<LocalImage> {
  const { signal } = options;
  const onStep = (step: string): void => options.onStep?.({ step });
  const temporary: string[] = [];
  const place = async (hint: string): Promise<string> => {
    const path = await store.temporaryFile(hint);
    temporary.push(path);
    return path;
  };
  const write = async (hint: string, data: Buffer): Promise<AssetSource> => {
    const path = await place(hint);
    await writeFile(path, data, { flag: "wx", signal });
    return { path };
  };
  try {
    const folder = await place("packages");
    await mkdir(folder);
    const apt = await Apt.open({ arch, folder, signal, onStep });
    const packages = await apt.download([...(await kernelPackages(apt, arch)), BUSYBOX]);

    onStep("unpacking the packages");
    const files = await bootFiles(packages, signal);
    const modules = await selectModules({
      ...files,
      load: async (names) => await moduleFiles(packages, names, signal),
    });
    const kernel = await write("kernel", await bootableKernel(files.kernel, arch));
    const initrd = await write("initrd", moduleInitrd(modules));

    onStep("making the root filesystem");
    const path = await place("rootfs");
    const version = /\d+(\.\d+)+/.exec(packages.find((each) => each.name === BUSYBOX)?.version ?? "")?.[0] ?? "0";
    const { extents } = await writeRootfs(path, { busybox: files.busybox, time: files.time, version });

    onStep("installing the image");
    const details = Object.fromEntries(packages.map((each) => [each.name, each.version]));
    const assets = { kernel, initrd, rootfs: { path, extents } };
    return await store.install(name, { assets, origin: { kind: "built", details } }, { signal });
  } finally {
    for (const path of temporary) await rm(path, { recursive: true, force: true });
  }
}

/** The packages that a kernel's meta package stands for: the image, and where the distribution parts them, its modules. */
async function kernelPackages(apt: Apt, arch: Arch): Promise<string[]> {
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

interface BootFiles {
  readonly kernel: Buffer;
  /** See `ModulePackage`. */
  readonly builtin: string;
  readonly likely: ReadonlyMap<string, Buffer>;
  readonly busybox: Buffer;
  /** When BusyBox was built: a time that depends on the package alone. */
  readonly time: number;
}

async function bootFiles(packages: readonly DownloadedPackage[], signal: AbortSignal | undefined): Promise<BootFiles> {
  let kernel: Buffer | undefined;
  let builtin = "";
  const likely = new Map<string, Buffer>();
  let busybox: Buffer | undefined;
  let time = 0;
  for await (const { path, mtime, content } of filesIn(packages, signal)) {
    if (/^boot\/vmlinuz-/.test(path)) kernel = await collect(content);
    else if (path.endsWith("/modules.builtin")) builtin = (await collect(content)).toString("utf8");
    else if (/^(usr\/)?bin\/busybox$/.test(path)) {
      busybox = await collect(content);
      time = mtime;
    } else {
      const name = moduleName(path);
      if (name !== null && LIKELY_MODULES.has(name)) likely.set(name, await collect(content));
    }
  }
  const names = packages.map(({ name }) => name).join(", ");
  if (kernel === undefined) throw new ImageError("IMAGE_BUILD_FAILED", `No kernel is in the packages ${names}.`);
  if (busybox === undefined) throw new ImageError("IMAGE_BUILD_FAILED", `No BusyBox is in the packages ${names}.`);
  return { kernel, builtin, likely, busybox, time };
}

async function moduleFiles(
  packages: readonly DownloadedPackage[],
  names: ReadonlySet<string>,
  signal: AbortSignal | undefined,
): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for await (const { path, content } of filesIn(packages, signal)) {
    const name = moduleName(path);
    if (name !== null && names.has(name)) files.set(name, await collect(content));
  }
  return files;
}

interface PackagedFile {
  readonly path: string;
  readonly mtime: number;
  readonly content: AsyncIterable<Buffer>;
}

async function* filesIn(
  packages: readonly DownloadedPackage[],
  signal: AbortSignal | undefined,
): AsyncGenerator<PackagedFile> {
  for (const each of packages) {
    for await (const { type, path, mtime, content } of readDeb(each.path, signal)) {
      if (type === "file") yield { path: path.toString("utf8").replace(/^\.?\/+/, ""), mtime, content };
    }
  }
}

async function collect(content: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of content) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Errors of the library pass as they are; what the system said gets a name and a mend. */
function buildFailure(error: unknown, name: string): unknown {
  // Whatever is wrong with a package's content, to the caller it is this image that can't be made.
  if (error instanceof SmolVMError && error.code !== "IMAGE_INVALID") return error;
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new ImageError("IMAGE_NO_SPACE", `No space left to make the image '${name}'; some 150 MiB are needed.`, {
      hint: "Free some space (smolvm image prune), or choose another folder with SMOLVM_IMAGE_DIR.",
      cause: error,
    });
  }
  const said = error instanceof Error ? error.message : String(error);
  return new ImageError("IMAGE_BUILD_FAILED", `The image '${name}' could not be made: ${said.replace(/\.$/, "")}.`, {
    hint: "Try again. Should it fail again, take the image from a machine that has it: smolvm image export there, smolvm image import here.",
    cause: error,
  });
}
