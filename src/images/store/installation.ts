import { type BigIntStats, rmSync } from "node:fs";

import { commitImage, type Held, type Rooms, underCommitLock } from "./commit.js";
import { setAside, syncFile } from "./durable.js";
import type { Leases } from "./leases.js";
import { sameBytes, statOrNull } from "./look.js";
import type { AssetKind, AssetRecord, Extents, ImageOrigin, ImageRecord } from "./record.js";

/** The assets of an image, by kind. */
export type AssetRecords = { readonly [kind in AssetKind]?: AssetRecord };

/**
 * The work of putting one image into the cache, step by step as its assets arrive. What it has published or taken up is
 * leased until `end`, so that a prune between two steps leaves it alone.
 */
export class Installation {
  readonly #rooms: Rooms;
  readonly #leases: Leases;
  readonly #signal: AbortSignal | undefined;
  readonly #releases: (() => void)[] = [];
  readonly #adopted = new Set<string>();

  constructor(rooms: Rooms, leases: Leases, signal: AbortSignal | undefined) {
    this.#rooms = rooms;
    this.#leases = leases;
    this.#signal = signal;
  }

  /** Makes a finished file the blob of its digest; `path` is gone afterwards. */
  async publish(path: string, digest: string, extents?: Extents): Promise<void> {
    await this.#rooms.blobs.seal(path, this.#signal);
    await this.#locked(async (held) => {
      // The lease first: what is published then is safe from a prune, whatever becomes of the lock.
      this.#lease(digest);
      held.assert();
      await this.#rooms.blobs.publish(path, digest, extents, this.#signal);
    });
  }

  /** Takes up a blob that was examined and found right. False if it is no longer the one that was examined. */
  async takeUp(digest: string, examined: BigIntStats | null): Promise<boolean> {
    return this.#ifUnchanged(this.#rooms.layout.blob(digest), examined, (held) => {
      this.#lease(digest);
      held.assert();
    });
  }

  /**
   * Makes the file in an image's folder, whose bytes were found to hash to `digest`, a blob too. False if it has changed since.
   * A blob that is another file already is kept only if its stamp vouches for it: nobody has looked at its bytes.
   */
  async adopt(
    path: string,
    digest: string,
    examined: BigIntStats | null,
    { trustStamps }: { readonly trustStamps: boolean },
  ): Promise<boolean> {
    const { blobs, layout } = this.#rooms;
    const blob = layout.blob(digest);
    const isBlob = (): boolean =>
      sameBytes(statOrNull(blob), examined) || (trustStamps && blobs.isStamped(blob, digest));
    if (!isBlob()) await syncFile(path, this.#signal);
    return this.#ifUnchanged(path, examined, async (held) => {
      this.#lease(digest);
      held.assert();
      this.#adopted.add(path);
      if (!isBlob()) await blobs.publishLink(path, digest, this.#rooms.temporary.path(digest), this.#signal);
    });
  }

  /**
   * Moves a file that was examined and found wrong to where nothing reads it, unless another one has taken its place since.
   * The blob that it should have been goes with it, if that is the same file.
   */
  async setAside(path: string, label: string, digest: string | null, examined: BigIntStats | null): Promise<void> {
    await this.#ifUnchanged(path, examined, (held) => {
      const { layout } = this.#rooms;
      const blob = digest === null ? null : layout.blob(digest);
      const twin = blob !== null && blob !== path && sameBytes(statOrNull(blob), examined);
      held.assert();
      setAside(layout, path, label);
      if (twin) rmSync(blob);
    });
  }

  /** Makes the image visible, in place of one of that name. Gives the new paths of files of others that were in its place. */
  async commit(
    name: string,
    image: { readonly assets: AssetRecords; readonly bootArgs: string | null; readonly origin: ImageOrigin },
  ): Promise<readonly string[]> {
    const { kernel, rootfs, initrd } = image.assets;
    if (!kernel || !rootfs) throw new TypeError(`image '${name}' lacks its kernel or its rootfs`);
    const record: ImageRecord = {
      name,
      assets: { kernel, rootfs, ...(initrd && { initrd }) },
      bootArgs: image.bootArgs,
      origin: image.origin,
      installedAt: new Date().toISOString(),
    };
    const options = { signal: this.#signal, adopted: this.#adopted };
    return this.#locked((held) => commitImage(this.#rooms, record, { ...options, held }));
  }

  end(): void {
    for (const release of this.#releases.splice(0)) release();
  }

  /** Does something under the commit lock if the file at the path is still the one that was examined; null for none. */
  #ifUnchanged(
    path: string,
    examined: BigIntStats | null,
    work: (held: Held) => Promise<void> | void,
  ): Promise<boolean> {
    return this.#locked(async (held) => {
      const now = statOrNull(path);
      if (now === null ? examined !== null : !sameBytes(now, examined)) return false;
      await work(held);
      return true;
    });
  }

  #lease(digest: string): void {
    this.#releases.push(this.#leases.take([digest], { vmId: null, folder: null, images: [] }));
  }

  #locked<T>(work: (held: Held) => Promise<T>): Promise<T> {
    return underCommitLock(this.#rooms, work, this.#signal);
  }
}
