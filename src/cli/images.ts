import type { ImageManager, LocalImage } from "../images/index.js";
import type { OptionDescriptions } from "./command.js";
import { Progress } from "./progress.js";

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

export async function imageManager({ registry }: { registry: string | undefined }): Promise<ImageManager> {
  const images = await import("../images/index.js");
  const from = registry ?? (process.env["SMOLVM_REGISTRY"] || undefined);
  return new images.ImageManager(from === undefined ? {} : { registry: await images.loadRegistry(from) });
}

export interface EnsureOptions {
  readonly registry: string | undefined;
  readonly signal: AbortSignal;
}

/** The image of that name, or the default image: from the cache if it is there, else fetched or made, with progress. */
export async function ensureImage(name: string | undefined, options: EnsureOptions): Promise<LocalImage> {
  using progress = new Progress();
  if (name === undefined || name === DEFAULT_IMAGE) {
    const { defaultImage } = await import("../build/index.js");
    return defaultImage({
      signal: options.signal,
      onStep: ({ step }) => progress.step(`making the default image: ${step}`),
    });
  }
  const manager = await imageManager(options);
  return manager.ensureImage(name, { signal: options.signal, onProgress: progress.image });
}
