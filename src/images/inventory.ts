import { lstatSync, type Stats } from "node:fs";
import { dirname } from "node:path";

import { ImageError } from "../errors.js";
import type { ProgressReport } from "./progress.js";
import { isErrno } from "../host/errno.js";
import type { AssetKind, AssetRecord, ImageStore } from "./store/index.js";
import { publicUrl, type WantedAsset, type WantedImage } from "./wanted.js";

/** One file of a cached image. */
export interface AssetSummary {
  readonly kind: AssetKind;
  readonly path: string;
  /** Apparent size. */
  readonly sizeBytes: number;
  /** What it occupies on the disk: less than its size if it has holes. */
  readonly allocatedBytes: number;
  /** SHA-256 of the file, or null for one that another tool put there and that was not read yet. */
  readonly contentDigest: string | null;
  readonly url: string | null;
  /** SHA-256 of the bytes at `url`, or null if they were never seen. */
  readonly digest: string | null;
  /** When its bytes were last read and found right, if it has not changed since: ISO 8601. */
  readonly verifiedAt: string | null;
}

export interface ImageSummary {
  readonly name: string;
  readonly cached: boolean;
  /** "registry", "built", "imported" or "adopted"; "unreadable" where this user may not look. */
  readonly origin: string;
  /** Where its root filesystem comes from. */
  readonly source: string | null;
  readonly sizeBytes: number | null;
  readonly allocatedBytes: number | null;
  /** The oldest of its files' verifications; null if one is not verified. */
  readonly verifiedAt: string | null;
}

export interface ImageDetails extends ImageSummary {
  readonly path: string;
  readonly bootArgs: string | null;
  readonly installedAt: string | null;
  readonly assets: readonly AssetSummary[];
  /** Ids of the machines that use it. */
  readonly leasedBy: readonly string[];
}

export interface VerifyReport {
  readonly name: string;
  readonly ok: boolean;
  readonly assets: readonly {
    readonly kind: AssetKind;
    readonly ok: boolean;
    /** What the file must hash to: "unknown" if nobody has said and it was never read. */
    readonly expected: string;
    /** What it hashes to, or null if it is missing or not a regular file. */
    readonly actual: string | null;
  }[];
}

/** Whether every file of an image is there. */
export function isWhole(store: ImageStore, { name, assets }: WantedImage): boolean {
  if (store.otherNameOf(name) !== null) return false;
  return assets.every(({ kind }) => statOf(store, name, kind) !== null);
}

/** Everything that is known of an image without reading its files. */
export async function inspect(store: ImageStore, wanted: WantedImage): Promise<ImageDetails> {
  return { ...(await describe(store, wanted)), leasedBy: await store.machinesUsing(wanted.name) };
}

async function describe(store: ImageStore, wanted: WantedImage): Promise<Omit<ImageDetails, "leasedBy">> {
  const { name } = wanted;
  const record = await store.read(name);
  // The files of another image say nothing of this one.
  const here = record === null && store.otherNameOf(name) !== null ? [] : wanted.assets;
  const assets = here.flatMap((asset) => describeAsset(store, name, asset, record?.assets[asset.kind]));
  const cached = assets.length === wanted.assets.length;
  const rootfs = wanted.assets.find(({ kind }) => kind === "rootfs");
  const times = assets.map(({ verifiedAt }) => verifiedAt);
  return {
    name,
    cached,
    origin: record?.origin.kind ?? "registry",
    source: rootfs === undefined ? null : publicUrl(rootfs),
    sizeBytes: cached ? assets.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) : null,
    allocatedBytes: cached ? assets.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0) : null,
    verifiedAt: cached && !times.includes(null) ? (times.sort()[0] ?? null) : null,
    path: dirname(store.layout.record(name)),
    bootArgs: wanted.bootArgs,
    installedAt: record?.installedAt ?? null,
    assets,
  };
}

export async function summarize(store: ImageStore, wanted: WantedImage): Promise<ImageSummary> {
  const details = await describe(store, wanted);
  const { name, cached, origin, source, sizeBytes, allocatedBytes, verifiedAt } = details;
  return { name, cached, origin, source, sizeBytes, allocatedBytes, verifiedAt };
}

/** What can be said of an image that this user may not look at. */
export function unreadable(name: string): ImageSummary {
  return {
    name,
    cached: false,
    origin: "unreadable",
    source: null,
    sizeBytes: null,
    allocatedBytes: null,
    verifiedAt: null,
  };
}

function describeAsset(
  store: ImageStore,
  name: string,
  asset: WantedAsset,
  have: AssetRecord | undefined,
): AssetSummary[] {
  const { kind } = asset;
  const stat = statOf(store, name, kind);
  if (stat === null) return [];
  return [
    {
      kind,
      path: store.layout.asset(name, kind),
      sizeBytes: stat.size,
      allocatedBytes: stat.blocks * 512,
      contentDigest: have?.contentDigest ?? null,
      url: have?.url ?? publicUrl(asset),
      digest: have?.digest ?? null,
      verifiedAt: have === undefined ? null : store.verifiedAt(name, kind, have.contentDigest),
    },
  ];
}

function statOf(store: ImageStore, name: string, kind: AssetKind): Stats | null {
  try {
    const stat = lstatSync(store.layout.asset(name, kind), { throwIfNoEntry: false });
    return stat?.isFile() ? stat : null;
  } catch (error) {
    // A file where a folder should be, or a folder that may not be read: there is nothing to use.
    if (isErrno(error)) return null;
    throw error;
  }
}

export async function verify(
  store: ImageStore,
  wanted: WantedImage,
  signal: AbortSignal | undefined,
  report: ProgressReport,
): Promise<VerifyReport> {
  const { name } = wanted;
  const record = await store.read(name);
  const other = record === null ? store.otherNameOf(name) : null;
  if (record === null && (other !== null || !wanted.assets.some(({ kind }) => statOf(store, name, kind) !== null))) {
    throw new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not in the cache.`, {
      hint: `Get it with: smolvm image pull ${name}`,
      details: { name, cacheDir: store.cacheDir },
    });
  }
  const assets = await Promise.all(
    wanted.assets.map(async (asset) => {
      const { kind } = asset;
      const have = record?.assets[kind];
      const actual = await store.digestOf(store.layout.asset(name, kind), {
        signal,
        onBytes: (bytes, total) => report({ asset: kind, phase: "verify", bytes, total }),
      });
      // Bytes without a record are held against the pinned digest, and without one there is nothing to hold them against.
      const expected = have?.contentDigest ?? asset.digest ?? actual ?? "unknown";
      return { kind, ok: actual === expected, expected, actual };
    }),
  );
  return { name, ok: assets.every(({ ok }) => ok), assets };
}

export async function companionsOf(
  store: ImageStore,
  kernelPath: string,
): Promise<{ readonly initrdPath?: string; readonly bootArgs?: string } | null> {
  const found = await store.imageAt(kernelPath);
  if (found?.kind !== "kernel") return null;
  const { name, assets, bootArgs } = found.record;
  return {
    ...(assets.initrd && { initrdPath: store.layout.asset(name, "initrd") }),
    ...(bootArgs !== null && { bootArgs }),
  };
}
