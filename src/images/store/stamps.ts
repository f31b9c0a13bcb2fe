import { closeSync, lstatSync, openSync, utimesSync, type BigIntStats } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { isErrno } from "../../host/errno.js";
import { makeFolder } from "../../host/folder.js";
import { isObject } from "../../json.js";
import { NOT_WRITABLE } from "../storage-failure.js";
import { IN_THE_WAY, replaceFile } from "./durable.js";
import type { Layout } from "./layout.js";
import { STAT_FIELDS, matchesStat, parseJson, readSmallFile, sameBytes, statOrNull } from "./look.js";

/** How a file looked to stat when its bytes were known to be right. Any ordinary write, or a change of names, moves `ctimeNs`. */
export interface Stamp {
  readonly dev: string;
  readonly ino: string;
  readonly size: string;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
  /** When the bytes were last read and hashed: ISO 8601, UTC. */
  readonly verifiedAt: string;
}

const MAX_BYTES = 4096;

/** How long to wait for the file system's clock to move on. It ticks every 1–10 ms on Linux and macOS disks. */
const SETTLE_LIMIT_MS = 60;
/** The coarsest clock of a file system in use: FAT's two seconds. */
const SETTLED_AGE_MS = 2_000;

/**
 * Remembers which files were verified, so that using one again costs a stat instead of a hash.
 *
 * A stamp is worth something only if every later write shows in ctime. A write in the same tick of the file system's
 * clock would not; so a stamp is recorded only after that clock has been seen to be past the file's ctime (git's
 * racy-clean rule, with the file system's own clock in place of a fixed time). Without that, or where the folder can't be
 * written, nothing is recorded and the next use hashes again.
 */
export class Stamps {
  readonly #layout: Layout;
  readonly #known = new Map<string, Stamp>();

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** The stamp that vouches for this file having these bytes, or null. */
  trusted(digest: string, stat: BigIntStats): Stamp | null {
    const key = keyOf(digest, stat);
    const known = this.#known.get(key);
    if (known !== undefined && matches(known, stat)) return known;
    const stored = parseStamp(parseJson(readSmallFile(join(this.#layout.stamps, key), MAX_BYTES)));
    if (stored === null || !matches(stored, stat)) return null;
    this.#known.set(key, stored);
    return stored;
  }

  /**
   * Waits until the clock of the file system is past the file's last change: from then on any write is visible in its
   * ctime. False if that does not come in a moment. Where nothing may be written, that clock can't be read: then the change
   * must be some seconds old by this host's clock.
   */
  async settle(stat: BigIntStats): Promise<boolean> {
    const changed = stat.ctimeNs > stat.mtimeNs ? stat.ctimeNs : stat.mtimeNs;
    const deadline = performance.now() + SETTLE_LIMIT_MS;
    for (;;) {
      const clock = this.#fileSystemClock();
      if (clock === null) return BigInt(Date.now() - SETTLED_AGE_MS) * 1_000_000n > changed;
      if (clock > changed) return true;
      if (performance.now() > deadline) return false;
      await sleep(1);
    }
  }

  /** Records that the file, as it was at `stat`, has these bytes. Only after `settle(stat)` has been true. */
  record(digest: string, stat: BigIntStats, verifiedAt: string): void {
    const key = keyOf(digest, stat);
    const stamp: Stamp = {
      dev: String(stat.dev),
      ino: String(stat.ino),
      size: String(stat.size),
      mtimeNs: String(stat.mtimeNs),
      ctimeNs: String(stat.ctimeNs),
      verifiedAt,
    };
    this.#known.set(key, stamp);
    try {
      replaceFile(join(this.#layout.stamps, key), JSON.stringify(stamp));
    } catch (error) {
      // A stamp saves time and nothing else: a read-only or full cache is read without.
      if (!isErrno(error, ...NOT_WRITABLE, ...IN_THE_WAY, "ENOSPC", "EDQUOT")) throw error;
    }
  }

  /**
   * To be called before names of blobs change (link, unlink, rename), which moves their ctime but none of their bytes. The
   * function that it gives carries their stamps over, and is to be called after. What had no valid stamp before has none
   * after.
   */
  carry(files: readonly { readonly digest: string; readonly path: string }[]): () => Promise<void> {
    const before = files.map(({ digest, path }) => {
      const stat = statOrNull(path);
      return { digest, path, stat, stamp: stat && this.trusted(digest, stat) };
    });
    return async () => {
      for (const { digest, path, stat, stamp } of before) {
        const now = statOrNull(path);
        if (!stat || !stamp || !now || now.ctimeNs === stat.ctimeNs) continue;
        if (sameBytes(stat, now) && (await this.settle(now)) && matchesStat(now, statOrNull(path))) {
          this.record(digest, now, stamp.verifiedAt);
        }
      }
    };
  }

  #fileSystemClock(): bigint | null {
    // Only its owner may touch a file with given times, and several users may share a cache.
    const probe = join(this.#layout.stamps, `clock.${process.getuid?.() ?? 0}`);
    for (const create of [false, true]) {
      try {
        if (create) {
          makeFolder(this.#layout.stamps);
          closeSync(openSync(probe, "a", 0o666));
        }
        // The times given don't matter: it is the ctime that the file system then sets from its own clock.
        utimesSync(probe, 0, 0);
        return lstatSync(probe, { bigint: true }).ctimeNs;
      } catch (error) {
        if (isErrno(error, ...NOT_WRITABLE, "ENOSPC", "EDQUOT")) return null;
        if (!isErrno(error, "ENOENT")) throw error;
      }
    }
    return null;
  }
}

function matches(stamp: Stamp, stat: BigIntStats): boolean {
  return STAT_FIELDS.every((field) => stamp[field] === String(stat[field]));
}

/** One stamp per inode: where hard links can't be, a blob and an image's file are two files with the same bytes. */
function keyOf(digest: string, stat: BigIntStats): string {
  return `${digest}-${stat.dev.toString(36)}-${stat.ino.toString(36)}.json`;
}

function parseStamp(value: unknown): Stamp | null {
  if (!isObject(value) || typeof value["verifiedAt"] !== "string") return null;
  return STAT_FIELDS.every((field) => typeof value[field] === "string") ? (value as unknown as Stamp) : null;
}
