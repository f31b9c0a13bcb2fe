import { imageDir } from "../host/home.js";
import { ValidationError } from "../errors.js";
import type { ImageManager, ImageProgress, LocalImage } from "../images/index.js";
// Not through the door, which has the whole image room behind it: a machine of the default image is started without.
import { madeHere } from "../images/made-here.js";
import {
  assertKnownFields,
  assertVmId,
  CONFIG_FIELDS,
  invalid,
  newVmId,
  VMConfig,
  type VMConfigFields,
} from "./config.js";

/** What `new SmolVM()` takes besides a VMConfig. All fields of VMConfig, where the image may stand for its paths. */
export interface VMOptions extends Partial<VMConfigFields> {
  /** An image: its name, or what `ensureImage` gave. With neither this nor paths it is the default image. */
  readonly image?: string | LocalImage | undefined;
  /** Where images are found and fetched. Default: a manager with the built-in registry. */
  readonly images?: ImageManager | undefined;
  /** The image cache that `images` would otherwise be made with. Default: `$SMOLVM_IMAGE_DIR`, else `~/.smolvm/images`. */
  readonly cacheDir?: string | undefined;
  /** Told how the image is fetched or made, where it is not here yet. It can be slow or throw without harm. */
  readonly onProgress?: ((progress: CreateProgress) => void) | undefined;
  /** Use only an image that is in the cache. Default: false. */
  readonly offline?: boolean | undefined;
  /** The machine outlives this program, until somebody stops it. Default false: it ends with this program. */
  readonly detached?: boolean | undefined;
}

/** Bytes of an image that is downloaded or verified, or a step in making the default image, such as "unpacking the kernel". */
export type CreateProgress = ImageProgress | { readonly image: string; readonly step: string };

const OPTION_FIELDS = [...CONFIG_FIELDS, "image", "images", "cacheDir", "onProgress", "offline", "detached"];

/** A machine's configuration, or how to come by it. Checked as far as it can be without touching an image. */
export interface Wish {
  readonly vmId: string;
  readonly detached: boolean;
  /** The configuration, with an image's paths where one is named. Fetches or builds what is not here. */
  resolve(signal: AbortSignal | undefined): Promise<Resolved>;
}

export interface Resolved {
  readonly config: VMConfig;
  /** What applies of these two: the configuration's own, else what belongs to its kernel in the cache. */
  readonly initrdPath: string | null;
  readonly bootArgs: string | null;
  readonly image: string | null;
  readonly cacheDir: string;
}

/** @throws ValidationError */
export function readOptions(options: VMConfig | VMOptions): Wish {
  if (options instanceof VMConfig) {
    return { vmId: options.vmId, detached: false, resolve: (signal) => withCompanions(options, {}, signal) };
  }
  assertKnownFields("SmolVM", options, OPTION_FIELDS);
  const { image, images, cacheDir, onProgress, offline = false, detached = false, ...fields } = options;
  if (typeof detached !== "boolean") throw invalid("detached", detached, "true or false");
  if (typeof offline !== "boolean") throw invalid("offline", offline, "true or false");
  if (onProgress !== undefined && typeof onProgress !== "function")
    throw invalid("onProgress", onProgress, "a function");
  if (image !== undefined && typeof image !== "string" && !isLocalImage(image)) {
    throw invalid("image", image, "the name of an image, or a LocalImage");
  }
  const vmId = fields.vmId === undefined ? newVmId() : assertVmId(fields.vmId);
  const where = { images, cacheDir, onProgress, offline };
  if (fields.kernelPath !== undefined || fields.rootfsPath !== undefined) {
    if (image !== undefined) throw new ValidationError("image and kernelPath exclude each other: give one of them.");
    const config = new VMConfig({ ...fields, vmId } as VMConfigFields);
    return { vmId, detached, resolve: (signal) => withCompanions(config, where, signal) };
  }
  // Everything but the paths is checked now, with a file that is certainly there in their place.
  const self = process.execPath;
  new VMConfig({ ...fields, vmId, kernelPath: self, rootfsPath: self });
  return {
    vmId,
    detached,
    async resolve(signal) {
      const local = isLocalImage(image) ? image : await find(image, where, signal);
      const config = new VMConfig({
        ...fields,
        vmId,
        kernelPath: local.kernelPath,
        rootfsPath: local.rootfsPath,
        initrdPath: fields.initrdPath ?? local.initrdPath,
        bootArgs: [local.bootArgs, fields.bootArgs].filter((args) => args !== null && args !== undefined).join(" "),
      });
      const { initrdPath, bootArgs } = config;
      return {
        config,
        initrdPath,
        bootArgs,
        image: local.name,
        cacheDir: where.images?.cacheDir ?? cacheDir ?? imageDir(),
      };
    },
  };
}

/** By its shape: the class would bring the whole image room with it, and a copy made by another version is as good. */
function isLocalImage(value: unknown): value is LocalImage {
  return typeof value === "object" && value !== null && "kernelPath" in value && "rootfsPath" in value;
}

interface Where {
  readonly images?: ImageManager | undefined;
  readonly cacheDir?: string | undefined;
  readonly onProgress?: ((progress: CreateProgress) => void) | undefined;
  readonly offline?: boolean | undefined;
}

async function manager({ images, cacheDir }: Where): Promise<ImageManager> {
  if (images !== undefined) return images;
  const { ImageManager } = await import("../images/index.js");
  return new ImageManager(cacheDir === undefined ? {} : { cacheDir });
}

async function find(name = "default", where: Where, signal: AbortSignal | undefined): Promise<LocalImage> {
  const { images, onProgress, offline = false } = where;
  const made = madeHere(name, images);
  if (made === null) return (await manager(where)).ensureImage(name, { signal, onProgress, offline });
  const { defaultImage: make } = await import("../build/index.js");
  const tell = onProgress && quietly(onProgress);
  const onStep = tell && (({ step }: { readonly step: string }): void => tell({ image: name, step }));
  return make({ arch: made.arch, cacheDir: images?.cacheDir ?? where.cacheDir, offline, signal, onStep });
}

/** A display that fails is the caller's affair; the image is not to suffer from it. */
function quietly(callback: (progress: CreateProgress) => unknown): (progress: CreateProgress) => void {
  return (progress) => {
    try {
      const answer = callback(progress);
      if (answer instanceof Promise) answer.catch(() => undefined);
    } catch {
      // as above
    }
  };
}

/** A kernel in the cache has its initrd and its arguments beside it; a VMConfig with only the two paths means those too. */
async function withCompanions(config: VMConfig, where: Where, signal: AbortSignal | undefined): Promise<Resolved> {
  signal?.throwIfAborted();
  const cacheDir = where.images?.cacheDir ?? where.cacheDir ?? imageDir();
  const { initrdPath, bootArgs } = config;
  const resolved = { config, initrdPath, bootArgs, image: null, cacheDir };
  if (initrdPath !== null) return resolved;
  const companions = await (await manager(where)).companionsOf(config.kernelPath);
  if (companions === null) return resolved;
  return {
    ...resolved,
    initrdPath: companions.initrdPath ?? null,
    bootArgs: bootArgs ?? companions.bootArgs ?? null,
  };
}
