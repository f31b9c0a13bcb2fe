import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ImageError, SmolVMError, ValidationError } from "../errors.js";
import { imageDir, smolvmHome } from "../host/home.js";
import type { LocalImage } from "../images/index.js";
import { type AssetSource, ImageStore } from "../images/store/index.js";
import { Apt, type DownloadedPackage, hostArch } from "./apt.js";
import { readDeb } from "./deb.js";
import { type Arch, bootableKernel } from "./kernel.js";
import { isModuleFile, moduleInitrd, selectModules } from "./modules.js";
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

/** Calls of this process that build the same image wait for one another. */
const underway = new Map<string, Promise<LocalImage>>();

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

  const key = join(store.cacheDir, name);
  const other = underway.get(key);
  if (other !== undefined) {
    // Another call's failure or abort is not this one's: then it tries itself.
    await Promise.race([other.catch(() => undefined), aborted(options.signal)]);
    return await defaultImage(options);
  }
  const build = buildDefault(store, name, arch, options).finally(() => underway.delete(key));
  underway.set(key, build);
  return await build;
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
  const known = ARCHES.find((each) => each === chosen);
  if (known === undefined) {
    throw new ValidationError(`Bad arch: '${String(chosen)}'. It must be one of ${ARCHES.join(", ")}.`, {
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

async function aborted(signal: AbortSignal | undefined): Promise<never> {
  return await new Promise((_, reject) => {
    const fail = (): void => reject(signal?.reason as Error);
    if (signal?.aborted === true) fail();
    signal?.addEventListener("abort", fail, { once: true });
  });
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
  const write = async (hint: string, data: Buffer): Promise<AssetSource> => {
    const path = await store.temporaryFile(hint);
    temporary.push(path);
    await writeFile(path, data, { flag: "wx", signal });
    return { path };
  };
  await mkdir(smolvmHome(), { recursive: true });
  const folder = await mkdtemp(join(smolvmHome(), "build-"));
  try {
    const apt = await Apt.open({ arch, folder, signal, onStep });
    const names = [...(await kernelPackages(apt, arch)), BUSYBOX];
    const packages = await apt.download(names);

    onStep("unpacking the packages");
    const parts = await unpackParts(packages, signal);
    onStep("making the kernel and its initrd");
    const kernel = await write("kernel", await bootableKernel(parts.kernel, arch));
    const initrd = await write("initrd", moduleInitrd(await selectModules(parts.modules)));
    onStep("making the root filesystem");
    const path = await store.temporaryFile("rootfs");
    temporary.push(path);
    const version = /\d+(\.\d+)+/.exec(versionOf(packages, BUSYBOX))?.[0] ?? "0";
    const { extents } = await writeRootfs(path, { busybox: parts.busybox, time: parts.time, version });
    onStep("installing the image");
    return await store.install(
      name,
      {
        assets: { kernel, initrd, rootfs: { path, extents } },
        origin: { kind: "built", details: Object.fromEntries(packages.map((each) => [each.name, each.version])) },
      },
      { signal },
    );
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof SmolVMError) throw error;
    throw new ImageError("IMAGE_BUILD_FAILED", `The image '${name}' could not be made: ${String(error)}`, {
      cause: error,
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
    for (const path of temporary) await rm(path, { force: true });
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

interface Parts {
  readonly kernel: Buffer;
  readonly modules: { readonly files: ReadonlyMap<string, Buffer>; readonly builtin: string };
  readonly busybox: Buffer;
  readonly time: number;
}

async function unpackParts(packages: readonly DownloadedPackage[], signal: AbortSignal | undefined): Promise<Parts> {
  const files = new Map<string, Buffer>();
  let kernel: Buffer | undefined;
  let builtin = "";
  let busybox: Buffer | undefined;
  let time = 0;
  for (const each of packages) {
    for await (const entry of readDeb(each.path, signal)) {
      const path = entry.path.toString("utf8").replace(/^\.?\/+/, "");
      if (entry.type !== "file") continue;
      if (/^boot\/vmlinuz-/.test(path)) kernel = await collect(entry.content);
      else if (path.endsWith("/modules.builtin")) builtin = (await collect(entry.content)).toString("utf8");
      else if (isModuleFile(path)) files.set(path, await collect(entry.content));
      else if (each.name === BUSYBOX && /^(usr\/)?bin\/busybox$/.test(path)) {
        busybox = await collect(entry.content);
        time = entry.mtime;
      }
    }
  }
  const names = packages.map(({ name }) => name).join(", ");
  if (kernel === undefined) throw new ImageError("IMAGE_BUILD_FAILED", `No kernel is in the packages ${names}.`);
  if (busybox === undefined) throw new ImageError("IMAGE_BUILD_FAILED", `No BusyBox is in the packages ${names}.`);
  return { kernel, modules: { files, builtin }, busybox, time };
}

async function collect(content: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of content) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function versionOf(packages: readonly DownloadedPackage[], name: string): string {
  return packages.find((each) => each.name === name)?.version ?? "";
}
