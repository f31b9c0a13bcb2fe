/** What to bring here, and where to put it. */
export interface TransferRequest {
  /**
   * Where the bytes are, best first. All are the same bytes: mirrors of one address, and that address itself as the last.
   * Without a digest any of them may deliver, as whoever named the mirrors has chosen to rely on them.
   */
  readonly urls: readonly string[];
  /** The expected SHA-256 (64 lower-case hex digits) of the bytes at the URL, or null if none is known. */
  readonly digest: string | null;
  /**
   * Without a digest: the SHA-256 that the address is remembered for. A mirror that has other bytes is passed over; what
   * the last of `urls` has is given back whatever it is, for the caller to judge. Default: none.
   */
  readonly remembered?: string | null | undefined;
  /**
   * A path that this transfer owns while it runs (the caller holds the lock). What an earlier call left there is resumed.
   * Side files are named `${partial}.*`.
   */
  readonly partial: string;
  readonly signal?: AbortSignal | undefined;
  /** Called at most every 50 ms, and once at the end of each phase. What it throws is ignored. */
  readonly onProgress?: ((progress: TransferProgress) => void) | undefined;
  /** The apparent size in bytes at which unpacking a compressed asset stops. Default: 64 GiB. */
  readonly maxUnpackedBytes?: number | undefined;
}

export interface TransferProgress {
  readonly phase: "download" | "verify";
  /** Bytes of the file at the URL that are here (`download`) or hashed (`verify`). */
  readonly bytes: number;
  /** The size of the file at the URL, or null while the server has not told it. */
  readonly total: number | null;
}

/** A run of data in a file, in bytes: from `start` up to and without `end`. Between the runs are holes. */
export type Extent = readonly [start: number, end: number];

export interface TransferResult {
  /** The finished, fsynced file: `partial`, or a side file of it when the asset was compressed. The caller renames it. */
  readonly path: string;
  /** SHA-256 of the bytes at the URL. */
  readonly digest: string;
  /** SHA-256 of the file's bytes: the same as `digest` unless the asset was compressed. */
  readonly contentDigest: string;
  /** Apparent size of the file in bytes. */
  readonly size: number;
  /** Where the file has data, in multiples of 4 KiB but for the last end. */
  readonly extents: readonly Extent[];
  /** The one of `urls` that the bytes came from, before redirects. */
  readonly url: string;
  /** Body bytes received in this call, the wasted ones included. */
  readonly fetchedBytes: number;
}
