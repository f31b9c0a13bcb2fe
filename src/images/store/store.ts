import { lstatSync, rmSync } from "node:fs";

import { ImageError } from "../../errors.js";
import { assertImageName } from "../name.js";
import type { LocalImage } from "../source.js";
import { storageFailure } from "../storage-failure.js";
import { Blobs } from "./blobs.js";
import { Catalog, type CatalogEntry } from "./catalog.js";
import { type Held, otherNameAt, type Rooms, sameFolder, underCommitLockIfRoom } from "./commit.js";
import { makeFolder } from "../../host/folder.js";
import { hashFile, type HashOptions } from "./hash.js";
import { Installation } from "./installation.js";
import { Layout } from "./layout.js";
import { Leases } from "./leases.js";
import { statOrNull } from "./look.js";
import { type Lease, leasePaths } from "./path-lease.js";
import { prune, type PruneReport } from "./prune.js";
import {
  ASSET_KINDS,
  type AssetKind,
  type AssetRecord,
  assetsOf,
  type Extents,
  type ImageOrigin,
  type ImageRecord,
} from "./record.js";
import { dropUnused, machinesUsing, type Removal, takeAway } from "./remove.js";
import { SeenSources } from "./sources.js";
import { Stamps } from "./stamps.js";
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
  readonly #catalog: Catalog;

  constructor(cacheDir: string) {
    this.layout = new Layout(cacheDir);
    this.cacheDir = this.layout.root;
    this.sources = new SeenSources(this.layout);
    this.#stamps = new Stamps(this.layout);
    this.blobs = new Blobs(this.layout, this.#stamps);
    this.#temporary = new TemporaryFiles(this.layout);
    this.#rooms = { layout: this.layout, stamps: this.#stamps, blobs: this.blobs, temporary: this.#temporary };
    this.#catalog = new Catalog(this.layout);
    this.#leases = new Leases(this.layout);
  }

  /** A path on the cache's own file system where nothing is yet. Prune leaves it alone for as long as this process lives. */
  temporaryFile(hint: string): Promise<string> {
    return this.#guarded(() => this.#temporary.path(hint));
  }

  /** What image.json says, or null if there is no image of that name that can be relied on. */
  read(name: string): Promise<ImageRecord | null> {
    return this.#guarded(() => this.#catalog.find(name)?.record ?? null);
  }

  /** The image and its record if every file has a valid stamp: a few stats, no byte read. Null says nothing: ask `open`. */
  openStamped(name: string): CatalogEntry | null {
    try {
      const entry = this.#catalog.find(name);
      if (entry === null) return null;
      const stamped = assetsOf(entry.record).every(([kind, { contentDigest }]) => {
        const stat = statOrNull(this.layout.asset(name, kind));
        return stat !== null && this.#stamps.trusted(contentDigest, stat) !== null;
      });
      return stamped ? entry : null;
    } catch (error) {
      throw storageFailure(error, this.cacheDir);
    }
  }

  /** The verified image; or which of its files are missing or wrong; or null if there is no image of that name. */
  open(
    name: string,
    options: OpenOptions = {},
  ): Promise<LocalImage | { readonly damaged: readonly AssetKind[] } | null> {
    return this.#guarded(async () => {
      const { verify = "auto", signal, onBytes } = options;
      signal?.throwIfAborted();
      const entry = this.#catalog.find(name);
      if (entry === null) return null;
      const findings = await Promise.all(
        assetsOf(entry.record).map(async ([kind, { contentDigest }]) => {
          const { actual } = await this.blobs.examine(this.layout.asset(name, kind), contentDigest, {
            trustStamps: verify === "auto",
            signal,
            onBytes: onBytes && ((bytes, total) => onBytes(kind, bytes, total)),
          });
          return actual === contentDigest ? [] : [kind];
        }),
      );
      const damaged = findings.flat();
      return damaged.length === 0 ? entry.image : { damaged };
    });
  }

  /** Reads a file, stamps it with what was found, and gives its SHA-256: null if there is no regular file. */
  digestOf(path: string, options: HashOptions = {}): Promise<string | null> {
    return this.#guarded(async () => (await this.blobs.read(path, options)).actual);
  }

  /** Puts finished files into the cache as an image, in place of one of that name. */
  install(
    name: string,
    request: InstallRequest,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<LocalImage> {
    return this.installing(name, options.signal, async (installation) => {
      const assets: Partial<Record<AssetKind, AssetRecord>> = {};
      for (const kind of ASSET_KINDS) {
        const source = request.assets[kind];
        if (source === undefined) continue;
        const { size } = lstatSync(source.path);
        const contentDigest = source.contentDigest ?? (await hashFile(source.path, options))?.digest;
        if (contentDigest === undefined) throw notAFile(kind, source.path);
        await installation.publish(source.path, contentDigest, source.extents);
        assets[kind] = { contentDigest, size, url: null, digest: null };
      }
      await installation.commit(name, { assets, bootArgs: request.bootArgs ?? null, origin: request.origin });
    });
  }

  /** Runs the work of putting an image together, and gives the image that it committed. */
  installing(
    name: string,
    signal: AbortSignal | undefined,
    work: (installation: Installation) => Promise<void>,
  ): Promise<LocalImage> {
    return this.#guarded(async () => {
      assertImageName(name);
      const other = otherNameAt(this.layout, name);
      if (other !== null) throw sameFolder(name, other);
      makeFolder(this.cacheDir);
      const installation = new Installation(this.#rooms, this.#leases, signal);
      try {
        await work(installation);
      } finally {
        installation.end();
      }
      const entry = this.#catalog.find(name);
      if (entry === null) throw new ImageError("IMAGE_INVALID", `Image '${name}' was removed while it was installed.`);
      return entry.image;
    });
  }

  /** The names of the images that have a record here, sorted. */
  names(): Promise<string[]> {
    return this.#guarded(() => this.#catalog.names());
  }

  /** The name of another image whose folder this one's is, where the file system does not tell their names apart. */
  otherNameOf(name: string): string | null {
    return otherNameAt(this.layout, name);
  }

  /** The image that a path names a file of, and which one; null for any other path. */
  imageAt(path: string): Promise<{ readonly record: ImageRecord; readonly kind: AssetKind } | null> {
    return this.#guarded(() => this.#catalog.at(path));
  }

  /** When a file of an image was last verified, if it has not changed since: ISO 8601. */
  verifiedAt(name: string, kind: AssetKind, digest: string): string | null {
    const stat = statOrNull(this.layout.asset(name, kind));
    return stat && (this.#stamps.trusted(digest, stat)?.verifiedAt ?? null);
  }

  /** The ids of the machines that use an image. */
  machinesUsing(name: string): Promise<string[]> {
    return this.#guarded(() => machinesUsing(this.#leases.survey().live, name));
  }

  /** Keeps what the paths name from being removed, for a machine. */
  lease(paths: readonly string[], holder: { readonly vmId: string }): Promise<Lease> {
    return this.#guarded(() => leasePaths(this.#rooms, this.#catalog, this.#leases, paths, holder.vmId));
  }

  /** The same for work of this process that reads them. */
  leaseForWork(paths: readonly string[]): Promise<Lease> {
    return this.#guarded(() => leasePaths(this.#rooms, this.#catalog, this.#leases, paths, null));
  }

  /** Removes the files of leases that have ended with their machine or their process. */
  dropEndedLeases(): Promise<void> {
    return this.#guarded(() => {
      for (const path of this.#leases.survey().stale) rmSync(path, { force: true });
    });
  }

  /** Removes an image, and what of its content nothing else uses. IMAGE_IN_USE while a machine holds it. */
  async remove(name: string): Promise<Removal> {
    const { digests, kept } = await this.#freed((held) => takeAway(this.#rooms, this.#leases, held, name));
    const freedBytes = await this.#freed((held) => dropUnused(this.#rooms, this.#leases, held, digests));
    return { freedBytes, kept };
  }

  /** Removes what no image, machine or running work uses; with `dryRun` only says what that would be. */
  prune(options: { readonly dryRun: boolean }): Promise<PruneReport> {
    return this.#freed((held) => prune(this.#rooms, this.#leases, held, options.dryRun));
  }

  #freed<T>(change: (held: Held) => T | Promise<T>): Promise<T> {
    return this.#guarded(() => underCommitLockIfRoom(this.#rooms, change));
  }

  /** What the operating system refuses becomes an error of the library that names the cache. */
  async #guarded<T>(work: () => T | Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storageFailure(error, this.cacheDir);
    }
  }
}

function notAFile(kind: AssetKind, path: string): ImageError {
  return new ImageError("IMAGE_INVALID", `The ${kind} '${path}' is not a regular file, or is being written to.`, {
    details: { path },
  });
}
