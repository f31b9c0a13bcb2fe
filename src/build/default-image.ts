import { join } from "node:path";

import { HostError, ImageError, ValidationError } from "../errors.js";
import { imageDir } from "../host/home.js";
import { acquireLock } from "../host/lock.js";
import type { LocalImage } from "../images/index.js";
import { ImageStore } from "../images/store/index.js";
import { hostArch } from "./host-arch.js";
import type { Arch } from "./kernel.js";

export interface DefaultImageOptions {
  /** "x86_64" or "arm64". Default: the host's own. */
  readonly arch?: string | undefined;
  /** Default: `$SMOLVM_IMAGE_DIR`, else `~/.smolvm/images`. */
  readonly cacheDir?: string | undefined;
  /** Take it from the cache or not at all. Default: false. */
  readonly offline?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told at the start of each step what is done now, such as "unpacking the kernel". */
  readonly onStep?: ((progress: { readonly step: string }) => void) | undefined;
}

const ARCHES: readonly Arch[] = ["x86_64", "arm64"];

/**
 * The image for a machine where nobody named one: the distribution's own kernel for virtual machines and a small root filesystem
 * with a shell and the usual tools. From the cache if it is there and verified, else made of packages from the host's
 * configured and signed archive; nothing is installed on the host. Named "default", for another architecture than the host's
 * "default-arm64" or "default-x86_64".
 *
 * Errors: ValidationError for an unknown `arch`; HostError HOST_UNSUPPORTED on a host without apt; ImageError IMAGE_BUILD_FAILED
 * where a package can't be had or unpacked, IMAGE_NOT_CACHED where it would have to be made and `offline` is set; the signal's own
 * reason.
 */
export async function defaultImage(options: DefaultImageOptions = {}): Promise<LocalImage> {
  const arch = checkArch(options.arch);
  if (options.cacheDir === "") throw new ValidationError("Bad cacheDir: ''. It must be the path of a folder.");
  const store = new ImageStore(options.cacheDir ?? imageDir());
  const name = arch === hostArch() ? "default" : `default-${arch}`;
  options.signal?.throwIfAborted();
  const cached = await openCached(store, name, options.signal);
  if (cached !== null) return cached;
  if (options.offline === true) throw notCached(name, store.cacheDir);
  // Loaded here: every start of a machine comes by, and hardly any has to make the image first.
  const { buildDefault, buildFailure } = await import("./make-default.js");
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
    throw buildFailure(error, name, store.cacheDir);
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

function notCached(name: string, cacheDir: string): ImageError {
  return new ImageError("IMAGE_NOT_CACHED", `The image '${name}' has not been made on this host yet, or is damaged.`, {
    hint: `Make it while there is a network: smolvm image pull ${name}`,
    details: { name, cacheDir },
  });
}

async function openCached(
  store: ImageStore,
  name: string,
  signal: AbortSignal | undefined,
): Promise<LocalImage | null> {
  const found = await store.open(name, { signal });
  return found === null || "damaged" in found ? null : found;
}
