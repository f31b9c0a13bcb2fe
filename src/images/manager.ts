import { HostError, ImageError } from "../errors.js";
import { imageDir } from "../host/home.js";
import { assertPath, checkedFolder, checkedRegistry, checkOptions } from "./arguments.js";
import { BUILTIN_IMAGES } from "./builtin.js";
import * as inventory from "./inventory.js";
import { madeHere } from "./made-here.js";
import { assertImageName } from "./name.js";
import { type ProgressCallback, type ProgressReport, progressTo } from "./progress.js";
import { type ImageSource, LocalImage, type ImageSourceFields } from "./source.js";
import {
  type AssetKind,
  assetsOf,
  exportImage,
  ImageStore,
  importImage,
  type PruneReport,
  type Removal,
} from "./store/index.js";
import { failureAtEdge } from "./storage-failure.js";
import { fits, wantedAgain, wantedFrom, type WantedImage } from "./wanted.js";

export interface ImageManagerOptions {
  /** Where images are kept. Default: `$SMOLVM_IMAGE_DIR`, else `~/.smolvm/images`. */
  readonly cacheDir?: string | undefined;
  /** The images that are known by name. Default: `BUILTIN_IMAGES`. */
  readonly registry?: Readonly<Record<string, ImageSource | ImageSourceFields>> | undefined;
}

export interface WorkOptions {
  /** Aborts within 100 ms with the signal's own reason. What can be resumed is kept. */
  readonly signal?: AbortSignal | undefined;
  /** Told how far the work is. It can be slow or throw without harm. */
  readonly onProgress?: ProgressCallback | undefined;
}

export interface EnsureOptions extends WorkOptions {
  /** "auto" (default) trusts a file that has not changed since it was verified; "full" reads every byte. */
  readonly verify?: "auto" | "full" | undefined;
  /** Use only what is in the cache. Default: false. */
  readonly offline?: boolean | undefined;
  /** Accept what a source without a digest serves, even if it served something else before. Default: false. */
  readonly acceptNew?: boolean | undefined;
}

/** Has images on this machine: finds, downloads, verifies and keeps them. Any number of managers and processes may share a cache. */
export class ImageManager {
  readonly cacheDir: string;
  readonly #store: ImageStore;
  readonly #registry: ReadonlyMap<string, ImageSource>;

  constructor(options: ImageManagerOptions = {}) {
    checkOptions(options, ["cacheDir", "registry"]);
    this.#store = new ImageStore(checkedFolder(options.cacheDir) ?? imageDir());
    this.cacheDir = this.#store.cacheDir;
    this.#registry = checkedRegistry(options.registry ?? BUILTIN_IMAGES);
  }

  /** The names of the registry, sorted. */
  listAvailable(): string[] {
    return [...this.#registry.keys()].sort();
  }

  /** Whether every file of the image is here. It says nothing of their bytes: `ensureImage` does. Unknown names are false. */
  isCached(name: string): Promise<boolean> {
    return this.#edge(async () => {
      const wanted = await this.#wanted(name);
      return wanted !== null && inventory.isWhole(this.#store, wanted);
    });
  }

  /**
   * The image, verified: from the cache if it is there and right, else with what is missing or damaged downloaded.
   * @throws ValidationError for a name that can't be one; ImageError `IMAGE_UNKNOWN`, `IMAGE_DOWNLOAD_FAILED`,
   * `IMAGE_CHECKSUM_MISMATCH`, `IMAGE_NOT_CACHED` (offline), `IMAGE_NO_SPACE`; HostError if the cache folder can't be used
   */
  ensureImage(name: string, options: EnsureOptions = {}): Promise<LocalImage> {
    return this.#checked(options, [...WORK, "verify", "offline", "acceptNew"], async () => {
      const { verify = "auto", offline = false, acceptNew = false, signal, onProgress } = options;
      const wanted = (await this.#wanted(name)) ?? this.#unknown(name);
      signal?.throwIfAborted();
      const report = progressTo(name, onProgress);
      const cached = await this.#cached(wanted, verify, signal, report);
      if (cached !== null) return cached;
      // Loaded here: whoever only lists the images must not wait for it.
      const { bringImage } = await import("./ensure.js");
      return bringImage(this.#store, wanted, { offline, acceptNew, trustStamps: verify === "auto", signal, report });
    });
  }

  /** Every image of the registry and of the cache, by name. */
  list(): Promise<inventory.ImageSummary[]> {
    return this.#edge(async () => {
      const names = new Set([...this.#registry.keys(), ...(await this.#store.names())]);
      const images = await Promise.all([...names].sort().map((name) => this.#summary(name)));
      return images.filter((image) => image !== null);
    });
  }

  /** Everything that is known of an image without reading its bytes. */
  inspect(name: string): Promise<inventory.ImageDetails> {
    return this.#edge(async () => {
      const wanted = (await this.#wanted(name)) ?? this.#unknown(name);
      return inventory.inspect(this.#store, wanted);
    });
  }

  /** Reads every byte of an image that is in the cache and holds it against its digest. Repairs nothing: `ensureImage` does. */
  verify(name: string, options: WorkOptions = {}): Promise<inventory.VerifyReport> {
    return this.#checked(options, WORK, async () => {
      const wanted = (await this.#wanted(name)) ?? this.#unknown(name);
      return inventory.verify(this.#store, wanted, options.signal, progressTo(name, options.onProgress));
    });
  }

  /** Removes an image from the cache, and nothing else that is in its folder. ImageError `IMAGE_IN_USE` while a machine holds it. */
  remove(name: string): Promise<Removal> {
    return this.#edge(async () => {
      if ((await this.#wanted(name)) === null) this.#unknown(name);
      return this.#store.remove(name);
    });
  }

  /** Removes from the cache what no image, no machine and no running work uses. `dryRun` only says what that would be. */
  prune(options: { readonly dryRun?: boolean | undefined } = {}): Promise<PruneReport> {
    return this.#checked(options, ["dryRun"], () => this.#store.prune({ dryRun: options.dryRun ?? false }));
  }

  /** Writes a cached image to one archive, with every digest in it, after verifying it. */
  exportArchive(
    name: string,
    path: string,
    options: WorkOptions = {},
  ): Promise<{ readonly path: string; readonly bytes: number }> {
    return this.#checked(options, WORK, async () => {
      assertPath(path);
      if ((await this.#wanted(name)) === null) this.#unknown(name);
      return exportImage(this.#store, name, path, options.signal, progressTo(name, options.onProgress));
    });
  }

  /** Takes an image from an archive, verified member by member. ImageError `IMAGE_INVALID` for a bad archive: then nothing is left of it. */
  importArchive(
    path: string,
    options: WorkOptions & {
      /** The image's name here. Default: the one in the archive. */
      readonly name?: string | undefined;
      /** Replace an image of that name with other content. Default: false. */
      readonly force?: boolean | undefined;
      /**
       * Believe the archive that its unpacked files are what compressed addresses with a pinned digest serve, so that the image
       * can be used without downloading them. Nothing in an archive can prove it. Default: false.
       */
      readonly trust?: boolean | undefined;
    } = {},
  ): Promise<LocalImage> {
    return this.#checked(options, [...WORK, "name", "force", "trust"], async () => {
      assertPath(path);
      const { name, force = false, trust = false, signal, onProgress } = options;
      if (name !== undefined) assertImageName(name);
      const reportTo = (image: string): ProgressReport => progressTo(image, onProgress);
      return importImage(this.#store, path, { name, force, trust, signal, reportTo });
    });
  }

  /** What the cache knows to belong to a cached kernel: null for any other path. */
  companionsOf(kernelPath: string): Promise<{ readonly initrdPath?: string; readonly bootArgs?: string } | null> {
    return this.#edge(() => {
      assertPath(kernelPath);
      return inventory.companionsOf(this.#store, kernelPath);
    });
  }

  async #summary(name: string): Promise<inventory.ImageSummary | null> {
    try {
      return await this.#edge(async () => {
        const wanted = await this.#wanted(name);
        return wanted && (await inventory.summarize(this.#store, wanted)); // null: removed while it was listed
      });
    } catch (error) {
      if (error instanceof HostError && error.code === "HOST_PERMISSION") return inventory.unreadable(name);
      throw error;
    }
  }

  /** Checks what the caller gave besides names and paths, and does the work. */
  async #checked<T>(options: object, fields: readonly string[], work: () => Promise<T>): Promise<T> {
    checkOptions(options, fields);
    return this.#edge(work, (options as WorkOptions).signal);
  }

  /** Sees to it that nothing but errors of the library leaves. */
  async #edge<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw failureAtEdge(error, this.cacheDir, signal);
    }
  }

  async #cached(
    wanted: WantedImage,
    verify: "auto" | "full",
    signal: AbortSignal | undefined,
    report: ProgressReport,
  ): Promise<LocalImage | null> {
    const stamped = verify === "auto" ? this.#store.openStamped(wanted.name) : null;
    const record = stamped?.record ?? (await this.#store.read(wanted.name));
    if (record === null || !fits(record, wanted)) return null;
    const image = stamped?.image ?? (await this.#opened(wanted.name, verify, signal, report));
    if (image === null) return null;
    for (const [asset, { size }] of assetsOf(record)) {
      report({ asset, phase: "done", bytes: size, total: size });
    }
    return image;
  }

  async #opened(
    name: string,
    verify: "auto" | "full",
    signal: AbortSignal | undefined,
    report: ProgressReport,
  ): Promise<LocalImage | null> {
    const onBytes = (asset: AssetKind, bytes: number, total: number): void => {
      report({ asset, phase: "verify", bytes, total });
    };
    const opened = await this.#store.open(name, { verify, signal, onBytes });
    return opened instanceof LocalImage ? opened : null;
  }

  /** What an image of that name has to be: the registry's word goes first. Null if nobody knows the name. */
  async #wanted(name: string): Promise<WantedImage | null> {
    assertImageName(name);
    const source = this.#registry.get(name);
    if (source !== undefined) return wantedFrom(source);
    const record = await this.#store.read(name);
    return record === null ? null : wantedAgain(record);
  }

  #unknown(name: string): never {
    const available = this.listAvailable();
    throw new ImageError(
      "IMAGE_UNKNOWN",
      `Unknown image: '${name}'. Available images: ${available.join(", ") || "(none)"}`,
      {
        hint:
          madeHere(name) !== null
            ? `That image is made on this host, not downloaded: smolvm image pull ${name}`
            : "List the images with: smolvm image ls",
        details: { name, available },
      },
    );
  }
}

/** The options of everything that takes its time. */
const WORK = ["signal", "onProgress"] as const;
