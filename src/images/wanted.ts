import { withoutCredentials } from "./address.js";
import type { ImageSource } from "./source.js";
import { ASSET_KINDS, assetsOf, type AssetKind, type AssetRecord, type ImageRecord } from "./store/index.js";

/** One file that an image has to consist of. */
export interface WantedAsset {
  readonly kind: AssetKind;
  /** Where to get it, or null if it can't be downloaded: it was built on some machine. */
  readonly url: string | null;
  /** What the bytes at the address must hash to, or null if nobody has said. */
  readonly digest: string | null;
}

/** What an image has to be: as its source describes it, or else as the cache knows it. */
export interface WantedImage {
  readonly name: string;
  readonly assets: readonly WantedAsset[];
  readonly bootArgs: string | null;
  readonly mirrors: readonly string[];
}

export function wantedFrom(source: ImageSource): WantedImage {
  const assets = {
    kernel: { url: source.kernelUrl, digest: source.kernelSha256 },
    initrd: { url: source.initrdUrl, digest: source.initrdSha256 },
    rootfs: { url: source.rootfsUrl, digest: source.rootfsSha256 },
  };
  return {
    name: source.name,
    assets: ASSET_KINDS.map((kind) => ({ kind, ...assets[kind] })).filter(({ url }) => url !== null),
    bootArgs: source.bootArgs,
    mirrors: source.mirrors,
  };
}

export function wantedAgain(record: ImageRecord): WantedImage {
  const assets = assetsOf(record).map(([kind, { url, digest }]) => ({ kind, url, digest }));
  return { name: record.name, assets, bootArgs: record.bootArgs, mirrors: [] };
}

/** Whether what the cache has is what is wanted, going by its record. */
export function fits(record: ImageRecord, wanted: WantedImage): boolean {
  return (
    record.bootArgs === wanted.bootArgs &&
    assetsOf(record).length === wanted.assets.length &&
    wanted.assets.every((asset) => fitsAsset(record.assets[asset.kind], asset))
  );
}

/** A pinned asset is the one with that digest, wherever it came from; any other is the one from that address. */
export function fitsAsset(have: AssetRecord | undefined, asset: WantedAsset): have is AssetRecord {
  if (have === undefined) return false;
  if (asset.digest !== null) return have.digest === asset.digest || have.contentDigest === asset.digest;
  return have.url === publicUrl(asset);
}

/** The address as it is written down: an image's record is shown, exported and shared, and a password is none of its business. */
export function publicUrl({ url }: WantedAsset): string | null {
  return url === null ? null : withoutCredentials(url);
}
