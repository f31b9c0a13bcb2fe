import { lstatSync, realpathSync, renameSync, rmSync, type BigIntStats } from "node:fs";
import { basename, dirname, join } from "node:path";

import { ImageError } from "../../errors.js";
import { machinesDir } from "../../host/home.js";
import { LocalImage } from "../source.js";
import { isErrno, NOT_WRITABLE, storageFailure } from "../storage-failure.js";
import { Blobs, type Finding } from "./blobs.js";
import type { Rooms } from "./commit.js";
import { hashFile, type HashOptions } from "./hash.js";
import { entryAt, makeFolder, unique } from "./durable.js";
import { Installation, underCommitLock } from "./installation.js";
import { ASSET_FILES, Layout } from "./layout.js";
import { Leases, type LeaseRecord } from "./leases.js";
import { imageNames, prune, unusedBlobs, weigh, type PruneReport } from "./prune.js";
import {
  ASSET_KINDS,
  assetsOf,
  readRecord,
  type AssetKind,
  type Extents,
  type ImageOrigin,
  type ImageRecord,
} from "./record.js";
import { SeenSources } from "./sources.js";
import { copySparse } from "./sparse.js";
import { matchesStat, Stamps, statOrNull } from "./stamps.js";
import { TemporaryFiles } from "./temporary.js";

/** A finished file that becomes part of an image. */
export interface AssetSource {
  /** A file on the cache's file system, such as one from `temporaryFile`. It is consumed. */
  readonly path: string;
  /** SHA-256 of its bytes, trusted if given; the file is hashed otherwise. */
  readonly contentDigest?: string | undefined;
  readonly extents?: Extents | undefined;
}

export interface InstallRequest {
  readonly assets: {
    readonly kernel: AssetSource;
    readonly rootfs: AssetSource;
    readonly initrd?: AssetSource | undefined;
  };
  readonly bootArgs?: string | null | undefined;
  readonly origin: ImageOrigin;
}

export interface OpenOptions {
  /** "auto" (default) trusts the stamp of an earlier verification, "full" reads every byte. */
  readonly verify?: "auto" | "full" | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onBytes?: ((kind: AssetKind, bytes: number, total: number) => void) | undefined;
}

export interface Lease {
  /** The leased paths in the order given: the immutable blob of a cached image's file, any other path unchanged. */
  readonly paths: readonly string[];
  release(): Promise<void>;
}

/** One cache folder: immutable content named by its digest, and images that are names for it. */
export class ImageStore {
  readonly cacheDir: string;
  readonly layout: Layout;
  readonly sources: SeenSources;
  readonly blobs: Blobs;
  readonly #stamps: Stamps;
  readonly #rooms: Rooms;
  readonly #leases: Leases;
  readonly #temporary: TemporaryFiles;
  readonly #records = new Map<
    string,
    { readonly stat: BigIntStats; readonly record: ImageRecord; readonly image: LocalImage }
  >();

  constructor(cacheDir: string) {
    this.layout = new Layout(cacheDir);
    this.cacheDir = this.layout.root;
    this.sources = new SeenSources(this.layout);
    this.#stamps = new Stamps(this.layout);
    this.blobs = new Blobs(this.layout, this.#stamps);
    this.#rooms = { layout: this.layout, stamps: this.#stamps, blobs: this.blobs };
    this.#leases = new Leases(this.layout);
    this.#temporary = new TemporaryFiles(this.layout);
  }

  /** A path on the cache's own file system where nothing is yet. Prune leaves it alone for as long as this process lives. */
  temporaryFile(hint: string): Promise<string> {
    return this.#guarded(() => Promise.resolve(this.#temporary.path(hint)));
  }

  /** What image.json says, or null if there is no image of that name that can be relied on. */
  read(name: string): Promise<ImageRecord | null> {
    return this.#guarded(() => Promise.resolve(this.#known(name)?.record ?? null));
  }

  /** The image if every file has a valid stamp: a few stats, no byte read. Null says nothing: ask `open`. */
  openStamped(name: string): LocalImage | null {
    const known = this.#known(name);
    if (known === null) return null;
    for (const [kind, { contentDigest }] of assetsOf(known.record)) {
      const stat = statOrNull(this.layout.asset(name, kind));
      if (stat === null || this.#stamps.trusted(contentDigest, stat) === null) return null;
    }
    return known.image;
  }

  /** The verified image; or which of its files are missing or wrong; or null if there is no image of that name. */
  open(
    name: string,
    options: OpenOptions = {},
  ): Promise<LocalImage | { readonly damaged: readonly AssetKind[] } | null> {
    return this.#guarded(async () => {
      options.signal?.throwIfAborted();
      const known = this.#known(name);
      if (known === null) return null;
      const findings = await this.#examine(known.record, options);
      const damaged = findings.filter(({ finding, expected }) => finding.actual !== expected).map(({ kind }) => kind);
      return damaged.length === 0 ? known.image : { damaged };
    });
  }

  /** Reads a file, stamps it with what was found, and gives its SHA-256: null if there is no regular file. */
  digestOf(path: string, options: HashOptions = {}): Promise<string | null> {
    return this.#guarded(async () => (await this.blobs.read(path, options)).actual);
  }

  async #examine(record: ImageRecord, { verify = "auto", signal, onBytes }: OpenOptions): Promise<AssetFinding[]> {
    return Promise.all(
      assetsOf(record).map(async ([kind, { contentDigest }]) => {
        const finding = await this.blobs.examine(this.layout.asset(record.name, kind), contentDigest, {
          trustStamps: verify === "auto",
          signal,
          onBytes: onBytes && ((bytes, total) => onBytes(kind, bytes, total)),
        });
        return { kind, expected: contentDigest, finding };
      }),
    );
  }

  /** Puts finished files into the cache as an image, in place of one of that name. */
  install(
    name: string,
    request: InstallRequest,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<LocalImage> {
    return this.installing(name, options.signal, async (installation) => {
      const assets = await Promise.all(
        ASSET_KINDS.map(async (kind) => {
          const source = request.assets[kind];
          if (source === undefined) return [kind, undefined] as const;
          const { size } = lstatSync(source.path);
          const contentDigest = source.contentDigest ?? (await hashFile(source.path, options))?.digest;
          if (contentDigest === undefined) {
            throw new ImageError(
              "IMAGE_INVALID",
              `The ${kind} '${source.path}' is not a regular file that keeps still.`,
              {
                details: { path: source.path },
              },
            );
          }
          await installation.publish(source.path, contentDigest, source.extents);
          return [kind, { contentDigest, size, url: null, digest: null }] as const;
        }),
      );
      const { origin, bootArgs = null } = request;
      await installation.commit(name, { assets: Object.fromEntries(assets), bootArgs, origin });
    });
  }

  /** Runs the work of putting an image together, and gives the image that it committed. */
  installing(
    name: string,
    signal: AbortSignal | undefined,
    work: (installation: Installation) => Promise<void>,
  ): Promise<LocalImage> {
    return this.#guarded(async () => {
      this.layout.image(name);
      makeFolder(this.cacheDir);
      const installation = new Installation(this.#rooms, this.#leases, signal);
      try {
        await work(installation);
      } finally {
        installation.end();
      }
      const known = this.#known(name);
      if (known === null) throw new ImageError("IMAGE_INVALID", `Image '${name}' was removed while it was installed.`);
      return known.image;
    });
  }

  /** The names of the images that have a record here, sorted. */
  names(): Promise<string[]> {
    return this.#guarded(() => Promise.resolve(imageNames(this.cacheDir).filter((name) => this.#known(name) !== null)));
  }

  /** When a file of an image was last verified, if it has not changed since: ISO 8601. */
  verifiedAt(name: string, kind: AssetKind, digest: string): string | null {
    const stat = statOrNull(this.layout.asset(name, kind));
    return stat && (this.#stamps.trusted(digest, stat)?.verifiedAt ?? null);
  }

  /** The machines that use an image. */
  machinesUsing(name: string): Promise<string[]> {
    return this.#guarded(() => Promise.resolve(machinesOf(this.#leases.survey().live, name)));
  }

  /**
   * Keeps what the paths name from being removed until it is released, or until both this process and the machine's folder are gone.
   * In a cache that can't be written nothing can be removed either, and nothing is recorded.
   */
  lease(paths: readonly string[], holder: { readonly vmId: string }): Promise<Lease> {
    return this.#guarded(async () => {
      const content = paths.map((path) => this.#contentOf(path));
      const digests = content.flatMap((found) => (found === null ? [] : [found.digest]));
      if (digests.length === 0) return { paths: [...paths], release: () => Promise.resolve() };
      const images = [...new Set(content.flatMap((found) => found?.image ?? []))];
      const folder = join(machinesDir(), holder.vmId);
      let release: () => void = () => undefined;
      try {
        await underCommitLock(this.#rooms, async () => {
          release = this.#leases.take(digests, { vmId: holder.vmId, folder, images });
          for (const [index, path] of paths.entries()) {
            const digest = content[index]?.digest;
            if (digest !== undefined && statOrNull(this.layout.blob(digest)) === null)
              await this.blobs.publishLink(path, digest);
          }
        });
      } catch (error) {
        release();
        if (!isErrno(error, ...NOT_WRITABLE)) throw error;
      }
      return {
        paths: paths.map((path, index) => this.#blobBehind(path, content[index]?.digest)),
        release: () =>
          this.#guarded(() => {
            release();
            return Promise.resolve();
          }),
      };
    });
  }

  /** Removes the files of leases that have ended with their machine or their process. */
  dropEndedLeases(): Promise<void> {
    return this.#guarded(() => {
      for (const path of this.#leases.survey().stale) rmSync(path, { force: true });
      return Promise.resolve();
    });
  }

  /** Copies a cached file, or any other, with its holes kept. `to` must not exist. */
  copy(from: string, to: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const digest = this.#contentOf(from)?.digest;
    return copySparse(from, to, {
      ...options,
      extents: digest === undefined ? undefined : this.blobs.extentsOf(digest),
    });
  }

  /** Removes an image, and what of its content nothing else uses. IMAGE_IN_USE while a machine holds it. */
  remove(name: string): Promise<{ readonly freedBytes: number }> {
    return this.#guarded(() =>
      underCommitLock(this.#rooms, () => {
        const { live } = this.#leases.survey();
        const users = machinesOf(live, name);
        if (users.length > 0) {
          throw new ImageError(
            "IMAGE_IN_USE",
            `Image '${name}' is in use by ${users.map((id) => `'${id}'`).join(", ")}.`,
            {
              hint: `Delete the machine first: smolvm rm ${users[0] ?? ""}`,
              details: { name, machines: users },
            },
          );
        }
        const record = this.#known(name)?.record;
        const digests = record === undefined ? [] : assetsOf(record).map(([, asset]) => asset.contentDigest);
        const folder = this.layout.image(name);
        if (entryAt(folder) === undefined) {
          throw new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not in the cache.`, {
            details: { name, cacheDir: this.cacheDir },
          });
        }
        const staged = join(this.layout.staging, unique());
        makeFolder(this.layout.staging);
        // One rename takes the whole image away, so that no half of it is ever seen.
        renameSync(folder, staged);
        rmSync(staged, { recursive: true, force: true });
        const unused = weigh(unusedBlobs(this.#rooms, new Set(live.flatMap((lease) => lease.digests)), digests));
        for (const { path } of unused) rmSync(path, { force: true });
        return Promise.resolve({ freedBytes: unused.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0) });
      }),
    );
  }

  /** Removes what no image, machine or running work uses; with `dryRun` only says what that would be. */
  prune(options: { readonly dryRun: boolean }): Promise<PruneReport> {
    return this.#guarded(() =>
      underCommitLock(this.#rooms, () => Promise.resolve(prune(this.#rooms, this.#leases, options.dryRun))),
    );
  }

  /** The record of an image, read again only if image.json has changed. */
  #known(
    name: string,
  ): { readonly stat: BigIntStats; readonly record: ImageRecord; readonly image: LocalImage } | null {
    const path = this.layout.record(name);
    const stat = statOrNull(path);
    const known = this.#records.get(name);
    if (stat !== null && known !== undefined && matchesStat(known.stat, stat)) return known;
    this.#records.delete(name);
    const record = stat && readRecord(path, name);
    if (!stat || !record) return null;
    const fresh = { stat, record, image: this.#localImage(record) };
    this.#records.set(name, fresh);
    return fresh;
  }

  #localImage({ name, assets, bootArgs }: ImageRecord): LocalImage {
    return new LocalImage({
      name,
      kernelPath: this.layout.asset(name, "kernel"),
      rootfsPath: this.layout.asset(name, "rootfs"),
      initrdPath: assets.initrd && this.layout.asset(name, "initrd"),
      bootArgs,
    });
  }

  /** The image whose file a path names, by its record. */
  imageAt(path: string): { readonly record: ImageRecord; readonly kind: AssetKind } | null {
    const kind = ASSET_KINDS.find((candidate) => ASSET_FILES[candidate] === basename(path));
    const name = basename(dirname(path));
    if (kind === undefined || name.startsWith(".") || !isSameFolder(dirname(dirname(path)), this.cacheDir)) return null;
    const record = this.#known(name)?.record;
    return record === undefined ? null : { record, kind };
  }

  #contentOf(path: string): { readonly digest: string; readonly image: string | undefined } | null {
    const digest = basename(path);
    if (/^[0-9a-f]{64}$/.test(digest) && isSameFolder(dirname(path), this.layout.blobs))
      return { digest, image: undefined };
    const found = this.imageAt(path);
    const asset = found?.record.assets[found.kind];
    return asset === undefined ? null : { digest: asset.contentDigest, image: found?.record.name };
  }

  /** A verified file's blob, if that is the same file and not a copy that was never read. */
  #blobBehind(path: string, digest: string | undefined): string {
    if (digest === undefined) return path;
    const blob = this.layout.blob(digest);
    return statOrNull(blob)?.ino === statOrNull(path)?.ino ? blob : path;
  }

  async #guarded<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storageFailure(error, this.cacheDir);
    }
  }
}

interface AssetFinding {
  readonly kind: AssetKind;
  readonly expected: string;
  readonly finding: Finding;
}

function machinesOf(leases: readonly LeaseRecord[], image: string): string[] {
  return leases.filter(({ images }) => images.includes(image)).flatMap(({ vmId }) => vmId ?? []);
}

function isSameFolder(a: string, b: string): boolean {
  if (a === b) return true;
  try {
    return realpathSync(a) === realpathSync(b);
  } catch {
    return false; // one of them is not there
  }
}
