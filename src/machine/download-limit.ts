import { Transform } from "node:stream";

import { GuestFileError } from "../errors.js";
import type { GuestStat } from "../guest/index.js";

export interface DownloadLimits {
  /** Bytes of all files together. Default 68719476736 (64 GiB). */
  readonly maxBytes?: number | undefined;
  /** Files, folders and links together. Default 1000000. */
  readonly maxEntries?: number | undefined;
}

const MOST_BYTES = 64 * 1024 ** 3;
const MOST_ENTRIES = 1_000_000;
/** Files of /proc and /sys say that they are empty, and have content. */
const UNSTATED_SIZE = 16 * 1024 * 1024;

/** Keeps count of what a download has brought, as the guest decides how much there is and the host's disk has to hold it. */
export class DownloadBudget {
  readonly #maxBytes: number;
  readonly #maxEntries: number;
  #bytes = 0;
  #entries = 0;

  constructor({ maxBytes = MOST_BYTES, maxEntries = MOST_ENTRIES }: DownloadLimits) {
    this.#maxBytes = maxBytes;
    this.#maxEntries = maxEntries;
  }

  /** Counted when they are listed: what is listed is held until it is copied. @throws GuestFileError EFBIG when it is too many. */
  countEntries(path: string, count: number): void {
    this.#entries += count;
    if (this.#entries > this.#maxEntries) throw tooMuch(path, "maxEntries", this.#maxEntries);
  }

  /** How much of a file to ask for: what it had when it was looked at. A file that grows on meanwhile is taken as it was. */
  length({ size }: GuestStat): number {
    return size > 0 ? size : UNSTATED_SIZE + 1; // so that one that has more is found out
  }

  /** Passes on a file's content, and fails when there is more of it than of a file that states no size, or than there may be of all. */
  meter(path: string, { size }: GuestStat): Transform {
    let left = size > 0 ? Infinity : UNSTATED_SIZE;
    return new Transform({
      transform: (chunk: Buffer, _encoding, done) => {
        left -= chunk.length;
        this.#bytes += chunk.length;
        if (left < 0) done(tooMuch(path, "size", UNSTATED_SIZE));
        else if (this.#bytes > this.#maxBytes) done(tooMuch(path, "maxBytes", this.#maxBytes));
        else done(null, chunk);
      },
    });
  }
}

function tooMuch(path: string, limit: string, value: number): GuestFileError {
  return new GuestFileError("EFBIG", "download", path, {
    hint:
      limit === "size"
        ? "The guest states no size for this file: read it with createReadStream, which has no limit."
        : `Give a larger ${limit}, or download less at once.`,
    details: { [limit]: value },
  });
}
