import { type BigIntStats, chmodSync, linkSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

import { isErrno } from "../../host/errno.js";
import { makeFolder } from "../../host/folder.js";
import { IN_THE_WAY, replaceFile, setAside, syncFile, syncFolder } from "./durable.js";
import { hashFile, type HashOptions } from "./hash.js";
import type { Layout } from "./layout.js";
import { entryAt, matchesStat, parseJson, readSmallFile, statOrNull } from "./look.js";
import type { Extents } from "./record.js";
import { copySparse, moveFile } from "./sparse.js";
import { type Stamps } from "./stamps.js";

/** A blob's extents are read only when a copy is made; beyond this size the scan for zeros does as well. */
const MAX_EXTENTS_BYTES = 16 * 1024 * 1024;

/** What a look at a file's bytes found. */
export interface Finding {
  /** SHA-256 of the bytes, or null if there is no regular file, or one that is being written to. */
  readonly actual: string | null;
  /** The file that was looked at, or null if there was none. */
  readonly stat: BigIntStats | null;
}

/** Immutable content under the name of its SHA-256. */
export class Blobs {
  readonly #layout: Layout;
  readonly #stamps: Stamps;

  constructor(layout: Layout, stamps: Stamps) {
    this.#layout = layout;
    this.#stamps = stamps;
  }

  /** Whether the file's bytes hash to `digest`: by its stamp if `trustStamps` and there is a valid one, else by reading them. */
  async examine(
    path: string,
    digest: string,
    options: HashOptions & { readonly trustStamps: boolean },
  ): Promise<Finding> {
    const stat = statOrNull(path);
    if (options.trustStamps && stat !== null && this.#stamps.trusted(digest, stat) !== null) {
      return { actual: digest, stat };
    }
    return this.read(path, options);
  }

  /** Whether the file's stamp vouches for it having these bytes. */
  isStamped(path: string, digest: string): boolean {
    const stat = statOrNull(path);
    return stat !== null && this.#stamps.trusted(digest, stat) !== null;
  }

  /** Hashes a file and stamps it with what was found. */
  async read(path: string, options: HashOptions = {}): Promise<Finding> {
    const stat = statOrNull(path);
    if (stat === null) return { actual: null, stat };
    // Before the bytes are read: a write while or after they are is then visible in its times.
    const settled = await this.#stamps.settle(stat);
    const hashed = await hashFile(path, options);
    if (hashed === null) return { actual: null, stat };
    if (settled && matchesStat(hashed.stat, stat)) {
      this.#stamps.record(hashed.digest, hashed.stat, new Date().toISOString());
    }
    return { actual: hashed.digest, stat: hashed.stat };
  }

  /** Prepares a file to be published: what takes time is done before anybody has to wait for it. */
  async seal(path: string, signal?: AbortSignal): Promise<void> {
    chmodSync(path, 0o444);
    await syncFile(path, signal);
  }

  /**
   * Makes a sealed file whose bytes are known to hash to `digest` the blob of that name; `path` is gone afterwards. A blob that is
   * there already and has a valid stamp stays, so that the images that are links to it go on sharing it.
   */
  async publish(path: string, digest: string, extents?: Extents, signal?: AbortSignal): Promise<void> {
    const blob = this.#layout.blob(digest);
    const present = statOrNull(blob);
    if (present !== null && this.#stamps.trusted(digest, present) !== null) {
      rmSync(path, { force: true });
      return;
    }
    this.#clear(blob);
    makeFolder(this.#layout.blobs);
    await moveFile(path, blob, { extents, signal });
    await syncFolder(this.#layout.blobs, signal);
    const stat = statOrNull(blob);
    if (stat !== null && (await this.#stamps.settle(stat))) this.#stamps.record(digest, stat, new Date().toISOString());
    if (extents !== undefined) this.#recordExtents(digest, extents);
  }

  /**
   * Makes an image's file, whose bytes were examined, the blob of its digest as well, in place of what has that name and was not.
   * `staged` is where the new name waits: a path in the cache where nothing is.
   */
  async publishLink(path: string, digest: string, staged: string, signal?: AbortSignal): Promise<void> {
    const blob = this.#layout.blob(digest);
    makeFolder(this.#layout.blobs);
    const restamp = this.#stamps.carry([{ digest, path }]);
    chmodSync(path, 0o444);
    await this.link(path, staged, digest, signal);
    this.#clear(blob);
    renameSync(staged, blob);
    await syncFolder(this.#layout.blobs, signal);
    await restamp();
  }

  /**
   * Gives content a further name: a hard link, else a reflink, else a sparse copy. `to` must not exist. A copy is another
   * file: it is read once before it is relied on.
   */
  async link(from: string, to: string, digest: string, signal?: AbortSignal): Promise<void> {
    try {
      linkSync(from, to);
    } catch (error) {
      // No hard links here, or no more of them for this file.
      if (!isErrno(error, "EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV")) throw error;
      await copySparse(from, to, { extents: this.extentsOf(digest), signal });
      await this.seal(to, signal);
    }
  }

  extentsOf(digest: string): Extents | undefined {
    const value = parseJson(readSmallFile(this.#extentsPath(digest), MAX_EXTENTS_BYTES));
    return isExtents(value) ? value : undefined;
  }

  #recordExtents(digest: string, extents: Extents): void {
    try {
      replaceFile(this.#extentsPath(digest), JSON.stringify(extents));
    } catch (error) {
      // They save time and nothing else: with a folder in their place copies look for the zeros.
      if (!isErrno(error, ...IN_THE_WAY)) throw error;
    }
  }

  #extentsPath(digest: string): string {
    return join(this.#layout.extents, `${digest}.json`);
  }

  /** A folder can't be replaced by a rename. */
  #clear(blob: string): void {
    if (entryAt(blob)?.isFile() === false) setAside(this.#layout, blob, "blob");
  }
}

function isExtents(value: unknown): value is Extents {
  if (!Array.isArray(value)) return false;
  let previous = 0;
  return value.every((run: unknown) => {
    if (!Array.isArray(run) || run.length !== 2) return false;
    const [start, end] = run as [unknown, unknown];
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end)) return false;
    const ascending = (start as number) >= previous && (end as number) > (start as number);
    previous = end as number;
    return ascending;
  });
}
