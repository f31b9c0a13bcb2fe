import { ImageError } from "../errors.js";
import type { ImageManager, LocalImage } from "../images/index.js";
// Not through the door, which has the whole image room behind it: the default image is had without.
import { madeHere } from "../images/made-here.js";
import type { OptionDescriptions } from "./command.js";
import type { Progress } from "./progress.js";
import { print } from "./terminal.js";

/** Every command that names an image takes these. */
export const IMAGE_OPTIONS = {
  registry: {
    value: "FILE_OR_URL",
    summary: "Where images are described (default: $SMOLVM_REGISTRY, else the built-in images)",
    completes: "path",
  },
} as const satisfies OptionDescriptions;

/** The image that is made on this host, for machines where no image is named. */
export const DEFAULT_IMAGE = "default";

interface Registry {
  readonly registry: string | undefined;
  /** Nothing is fetched: of a registry that has an address those images are known that are here. */
  readonly offline?: boolean | undefined;
}

export async function imageManager(
  { registry, offline = false }: Registry,
  signal?: AbortSignal,
): Promise<ImageManager> {
  const images = await import("../images/index.js");
  const from = registryFrom(registry);
  if (offline && isAddress(from)) return new images.ImageManager({ registry: {} });
  return new images.ImageManager(from === undefined ? {} : { registry: await images.loadRegistry(from, { signal }) });
}

/** For work on what is here, which needs no registry: one that can't be had must not be in its way. */
export async function cacheManager(): Promise<ImageManager> {
  const { ImageManager } = await import("../images/index.js");
  return new ImageManager({ registry: {} });
}

/**
 * Works on an image that is here without asking for the registry. Only a name that the cache does not know needs it: another tool may
 * have put the image there, and an error says what there is.
 */
export async function withCached<T>(
  option: Registry,
  signal: AbortSignal,
  work: (manager: ImageManager) => Promise<T>,
): Promise<T> {
  try {
    return await work(await cacheManager());
  } catch (error) {
    if (!(error instanceof ImageError && error.code === "IMAGE_UNKNOWN")) throw error;
    return work(await imageManager(option, signal));
  }
}

/** For looking at all there is: where the registry can't be had that is said, and what is here has to do. */
export async function managerOfWhatIsKnown(option: Registry, signal: AbortSignal): Promise<ImageManager> {
  try {
    return await imageManager(option, signal);
  } catch (error) {
    if (!(error instanceof ImageError && error.code === "IMAGE_DOWNLOAD_FAILED")) throw error;
    print(`smolvm: ${error.message}`);
    print("smolvm: the registry is left out, and only what is here is known");
    return cacheManager();
  }
}

function registryFrom(option: string | undefined): string | undefined {
  return option ?? (process.env["SMOLVM_REGISTRY"] || undefined);
}

function isAddress(registry: string | undefined): boolean {
  return /^https?:/i.test(registry ?? "");
}

export interface EnsureOptions extends Partial<Registry> {
  /** Not needed for an image that is made on this host. */
  readonly manager?: ImageManager | undefined;
  readonly signal: AbortSignal;
  /** Take part in the lines of others; default: lines of its own. */
  readonly progress?: Progress | undefined;
  readonly acceptNew?: boolean | undefined;
}

/** The image of that name, or the default image: from the cache if it is there, else fetched or made, with progress. */
export async function ensureImage(
  name: string = DEFAULT_IMAGE,
  { manager, signal, progress, acceptNew, registry, offline = false }: EnsureOptions,
): Promise<LocalImage> {
  using own = progress === undefined ? new (await import("./progress.js")).Progress() : null;
  const shown = progress ?? own;
  const made = madeHere(name, manager);
  try {
    if (made === null) {
      manager ??= await imageManager({ registry: undefined }, signal);
      return await manager.ensureImage(name, { signal, onProgress: shown?.image, acceptNew, offline });
    }
    const { defaultImage } = await import("../build/index.js");
    const onStep = ({ step }: { step: string }): void => shown?.step(`making the default image: ${step}`);
    return await defaultImage({ arch: made.arch, offline, signal, onStep });
  } catch (error) {
    const code = offline && error instanceof ImageError ? error.code : null;
    const missing = code === "IMAGE_NOT_CACHED" || (code === "IMAGE_UNKNOWN" && isAddress(registryFrom(registry)));
    throw missing ? notHere(name, made === null ? registry : undefined, error) : error;
  }
}

/** The command that gets it, with the registry that was named. One that may hold a password is not repeated. */
function notHere(name: string, registry: string | undefined, cause: unknown): ImageError {
  const shown = /^[\w./:~-]*$/.test(registry ?? "") ? registry : "FILE_OR_URL";
  const option = shown === undefined ? "" : `--registry ${shown} `;
  return new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not here, and --offline keeps it from being fetched.`, {
    hint: `Get it while there is a network: smolvm image pull ${option}${name}`,
    details: { name },
    cause,
  });
}
