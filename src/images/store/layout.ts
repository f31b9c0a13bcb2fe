import { join, resolve } from "node:path";

import { assertImageName } from "../name.js";
import type { AssetKind } from "./record.js";

/** What an asset is called in its image's folder: the names that other tools know. */
export const ASSET_FILES = {
  kernel: "vmlinux.bin",
  initrd: "initrd.img",
  rootfs: "rootfs.ext4",
} as const satisfies Record<AssetKind, string>;

/**
 * Where everything is below the cache folder:
 *
 *     <name>/vmlinux.bin rootfs.ext4 initrd.img    hard links to blobs
 *     <name>/image.json                            what the image consists of; the commit point
 *     .blobs/sha256/<hex>                          immutable content, mode 0444
 *     .stamps/<hex>-<dev>-<ino>.json               how a verified file looked to stat, per inode
 *     .extents/<hex>.json                          where a sparse blob has data
 *     .sources/<key>.json                          what an address was seen to serve
 *     .partial/<key>                               resumable downloads
 *     .locks/<key>/  .leases/                      who works on what; who uses what
 *     .tmp/<process>/                              images being put together, and files that builders write
 *     .damaged/                                    what failed verification
 *     .removed-<id>/                               an image on its way out
 *
 * Image names can't begin with a dot, so the two kinds of names never meet.
 */
export class Layout {
  readonly root: string;

  constructor(cacheDir: string) {
    this.root = resolve(cacheDir);
  }

  get blobs(): string {
    return join(this.root, ".blobs", "sha256");
  }
  get stamps(): string {
    return join(this.root, ".stamps");
  }
  get extents(): string {
    return join(this.root, ".extents");
  }
  get sources(): string {
    return join(this.root, ".sources");
  }
  get partials(): string {
    return join(this.root, ".partial");
  }
  get locks(): string {
    return join(this.root, ".locks");
  }
  get leases(): string {
    return join(this.root, ".leases");
  }
  get temporary(): string {
    return join(this.root, ".tmp");
  }
  get damaged(): string {
    return join(this.root, ".damaged");
  }

  /** Where an image is moved to be removed: beside the others, as on a full disk there is no room for a folder to put it in. */
  removed(id: string): string {
    return join(this.root, `${REMOVED_PREFIX}${id}`);
  }

  /** The image's own folder. Throws a ValidationError for a name that could leave the cache. */
  image(name: string): string {
    assertImageName(name);
    return join(this.root, name);
  }
  asset(name: string, kind: AssetKind): string {
    return join(this.image(name), ASSET_FILES[kind]);
  }
  record(name: string): string {
    return join(this.image(name), RECORD_FILE);
  }
  blob(digest: string): string {
    return join(this.blobs, digest);
  }
}

export const RECORD_FILE = "image.json";
export const REMOVED_PREFIX = ".removed-";
