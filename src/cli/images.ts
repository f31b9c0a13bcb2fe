import type { ImageManager, LocalImage } from "../images/index.js";
import type { OptionDescriptions } from "./command.js";
import type { Progress } from "./progress.js";

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

/** "default", or "default-arm64" for another architecture than the host's: made, not downloaded, unless a registry has it. */
const MADE_HERE = /^default(?:-(arm64|x86_64))?$/;

export async function imageManager({ registry }: { registry: string | undefined }): Promise<ImageManager> {
  const images = await import("../images/index.js");
  const from = registry ?? (process.env["SMOLVM_REGISTRY"] || undefined);
  return new images.ImageManager(from === undefined ? {} : { registry: await images.loadRegistry(from) });
}

export interface EnsureOptions {
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
  { manager, signal, progress, acceptNew }: EnsureOptions,
): Promise<LocalImage> {
  using own = progress === undefined ? new (await import("./progress.js")).Progress() : null;
  const shown = progress ?? own;
  const made = MADE_HERE.exec(name);
  if (made !== null && !manager?.listAvailable().includes(name)) {
    const { defaultImage } = await import("../build/index.js");
    const onStep = ({ step }: { step: string }): void => shown?.step(`making the default image: ${step}`);
    return await defaultImage({ arch: made[1], signal, onStep });
  }
  manager ??= await imageManager({ registry: undefined });
  return await manager.ensureImage(name, { signal, onProgress: shown?.image, acceptNew });
}
