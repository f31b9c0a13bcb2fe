import type { ProgressReport } from "./progress.js";
import type { AssetRecord, ImageRecord, ImageStore, Installation } from "./store/index.js";
import { fitsAsset, type WantedAsset, type WantedImage } from "./wanted.js";

/** What one file of an image is looked for with. */
export interface Hunt {
  readonly store: ImageStore;
  readonly installation: Installation;
  readonly image: WantedImage;
  readonly asset: WantedAsset;
  /** What the cache knew of the image before. */
  readonly record: ImageRecord | null;
}

export interface HuntOptions {
  readonly offline: boolean;
  readonly acceptNew: boolean;
  readonly trustStamps: boolean;
  readonly signal: AbortSignal;
  readonly report: ProgressReport;
}

export interface Obtained {
  readonly asset: WantedAsset;
  readonly record: AssetRecord;
  /** "adopted": another tool put it into the image's folder. */
  readonly origin: "cache" | "adopted" | "download";
}

export interface Expected {
  /** SHA-256 of the bytes at the address, if that is known. */
  readonly digest: string | null;
  readonly contentDigest: string;
}

/** The image's own record of the file, if that is of the file that is wanted. */
export function recorded({ record, asset }: Omit<Hunt, "installation">): AssetRecord | null {
  const have = record?.assets[asset.kind];
  return fitsAsset(have, asset) ? have : null;
}

/** What the file is expected to be: as the image had it, as the address served it before, or as its digest is pinned. */
export function expectedOf(hunt: Omit<Hunt, "installation">): Expected | null {
  const have = recorded(hunt);
  if (have !== null) return have;
  const { store, asset } = hunt;
  if (asset.url === null) return null;
  const seen = store.sources.recall({ url: asset.url, digest: asset.digest });
  // Of a file that is pinned as it is compressed nobody knows yet what is in it: a guess that is right where it is not compressed.
  return seen ?? (asset.digest === null ? null : { digest: asset.digest, contentDigest: asset.digest });
}

export function hashing(asset: WantedAsset, { signal, trustStamps, report }: HuntOptions) {
  return {
    signal,
    trustStamps,
    onBytes: (bytes: number, total: number) => report({ asset: asset.kind, phase: "verify", bytes, total }),
  };
}
