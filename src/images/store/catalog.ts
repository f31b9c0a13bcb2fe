import { realpathSync, type BigIntStats } from "node:fs";
import { basename, dirname } from "node:path";

import { LocalImage } from "../source.js";
import { isErrno } from "../../host/errno.js";
import { ASSET_FILES, type Layout } from "./layout.js";
import { matchesStat, statOrNull } from "./look.js";
import { imageNames } from "./prune.js";
import { ASSET_KINDS, type AssetKind, type ImageRecord, readRecord } from "./record.js";

/** An image as its image.json has it. Nothing is said of its files. */
export interface CatalogEntry {
  readonly record: ImageRecord;
  readonly image: LocalImage;
}

/** The images that have a record, each read again only when its image.json has changed. */
export class Catalog {
  readonly #layout: Layout;
  readonly #entries = new Map<string, CatalogEntry & { readonly stat: BigIntStats }>();

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** Null if there is no image of that name, or none whose record can be relied on. */
  find(name: string): CatalogEntry | null {
    const path = this.#layout.record(name);
    const stat = statOrNull(path);
    const known = this.#entries.get(name);
    if (stat !== null && known !== undefined && matchesStat(known.stat, stat)) return known;
    this.#entries.delete(name);
    const record = stat && readRecord(path, name);
    if (!stat || !record) return null;
    const entry = { record, image: localImage(this.#layout, record), stat };
    this.#entries.set(name, entry);
    return entry;
  }

  /** Sorted. An image that this user may not look at is one as well. */
  names(): string[] {
    return imageNames(this.#layout.root).filter((name) => {
      try {
        return this.find(name) !== null;
      } catch (error) {
        if (isErrno(error, "EACCES", "EPERM")) return true;
        throw error;
      }
    });
  }

  /** The image that a path names a file of, and which one. */
  at(path: string): { readonly record: ImageRecord; readonly kind: AssetKind } | null {
    const kind = ASSET_KINDS.find((candidate) => ASSET_FILES[candidate] === basename(path));
    const name = basename(dirname(path));
    if (kind === undefined || name.startsWith(".") || !isSameFolder(dirname(dirname(path)), this.#layout.root))
      return null;
    const record = this.find(name)?.record;
    return record === undefined ? null : { record, kind };
  }

  /** The content that a path names, as a blob or as a file of an image. */
  contentAt(path: string): { readonly digest: string; readonly image: string | null } | null {
    const digest = basename(path);
    if (/^[0-9a-f]{64}$/.test(digest) && isSameFolder(dirname(path), this.#layout.blobs))
      return { digest, image: null };
    const found = this.at(path);
    const asset = found?.record.assets[found.kind];
    return asset === undefined ? null : { digest: asset.contentDigest, image: found?.record.name ?? null };
  }
}

function localImage(layout: Layout, { name, assets, bootArgs }: ImageRecord): LocalImage {
  return new LocalImage({
    name,
    kernelPath: layout.asset(name, "kernel"),
    rootfsPath: layout.asset(name, "rootfs"),
    initrdPath: assets.initrd && layout.asset(name, "initrd"),
    bootArgs,
  });
}

/** The cache may be named by a path with symbolic links in it, and the file by another one. */
function isSameFolder(a: string, b: string): boolean {
  if (a === b) return true;
  try {
    return realpathSync(a) === realpathSync(b);
  } catch (error) {
    if (isErrno(error)) return false; // one of them is not there, or not to be seen
    throw error;
  }
}
