/** The parts that an image is made of. Every image has a kernel and a root filesystem; the initrd is for those that need one. */
export const ASSET_KINDS = ["kernel", "initrd", "rootfs"] as const;
export type AssetKind = (typeof ASSET_KINDS)[number];

/** Runs of data in a sparse file, `[start, end)` in bytes, ascending. What lies between them is holes. */
export type Extents = readonly (readonly [start: number, end: number])[];

/** What is known of one file of an image. */
export interface AssetRecord {
  /** SHA-256 of the file's bytes, lower-case hex: the name of its blob. */
  readonly contentDigest: string;
  /** Apparent size in bytes. */
  readonly size: number;
  /** Where it was downloaded from, or null if it was built here. */
  readonly url: string | null;
  /** SHA-256 of the bytes at `url`; differs from `contentDigest` if those are compressed. Null if they were never seen. */
  readonly digest: string | null;
}

/** How an image came into the cache. `details` are for people and for the room that put it there, such as a builder's recipe. */
export interface ImageOrigin {
  readonly kind: "registry" | "built" | "imported" | "adopted";
  readonly details?: Readonly<Record<string, string>>;
}

/** The contents of `image.json`. */
export interface ImageRecord {
  readonly name: string;
  readonly assets: {
    readonly kernel: AssetRecord;
    readonly rootfs: AssetRecord;
    readonly initrd?: AssetRecord;
  };
  /** Arguments that the image wants on the kernel's command line. */
  readonly bootArgs: string | null;
  readonly origin: ImageOrigin;
  /** ISO 8601, UTC. */
  readonly installedAt: string;
}
