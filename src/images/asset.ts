import { join } from "node:path";

import { ImageError } from "../errors.js";
import { acquireLock, type Lock } from "../host/lock.js";
import { withoutCredentials } from "./address.js";
import type { ProgressReport } from "./progress.js";
import {
  addressKey,
  type Address,
  type AssetRecord,
  type Finding,
  type ImageRecord,
  type ImageStore,
  type Installation,
} from "./store/index.js";
import { fitsAsset, publicUrl, type WantedAsset, type WantedImage } from "./wanted.js";

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

/** Gets one file of an image into the store, from the nearest place that has it. */
export async function obtainAsset(hunt: Hunt, options: HuntOptions): Promise<Obtained> {
  return (await fromFolder(hunt, options)) ?? (await fromStore(hunt, options)) ?? (await fromAddress(hunt, options));
}

/** The file in the image's own folder, if it is right. One that is wrong is set aside, so that nothing serves it. */
async function fromFolder(hunt: Hunt, options: HuntOptions): Promise<Obtained | null> {
  const { store, installation, image, asset, record } = hunt;
  const have = record?.assets[asset.kind];
  if (record !== null && !fitsAsset(have, asset)) return null; // part of the image that this one replaces
  const expected = have ?? remembered(hunt);
  const path = store.layout.asset(image.name, asset.kind);
  const { actual, stat } = await examineInPlace(hunt, expected, options);
  if (stat === null || !isExpected(actual, expected)) {
    await installation.setAside(path, `${image.name}-${asset.kind}`, expected?.contentDigest ?? null, stat);
    return null;
  }
  if (!(await installation.adopt(path, actual, stat))) return null;
  if (have !== undefined) return { asset, record: have, origin: "cache" };
  const size = Number(stat.size);
  const adopted = { contentDigest: actual, size, url: publicUrl(asset), digest: expected?.digest ?? null };
  return { asset, record: adopted, origin: "adopted" };
}

/** Content that is here under another name, or that has lost its name. */
async function fromStore(hunt: Hunt, options: HuntOptions): Promise<Obtained | null> {
  const { store, installation, asset, record } = hunt;
  const have = record?.assets[asset.kind];
  const expected = fitsAsset(have, asset) ? have : remembered(hunt);
  if (expected === null) return null;
  const { contentDigest, digest } = expected;
  const path = store.layout.blob(contentDigest);
  const { actual, stat } = await store.blobs.examine(path, contentDigest, hashing(asset, options));
  if (stat === null || actual !== contentDigest) {
    await installation.setAside(path, contentDigest.slice(0, 16), contentDigest, stat);
    return null;
  }
  if (!(await installation.takeUp(contentDigest, stat))) return null;
  return { asset, record: { contentDigest, size: Number(stat.size), url: publicUrl(asset), digest }, origin: "cache" };
}

/** Whether the file that another tool put into the image's folder can be used where it is, with nothing written. */
export async function isRightInPlace(hunt: Omit<Hunt, "installation">, options: HuntOptions): Promise<boolean> {
  const expected = remembered(hunt);
  const { actual } = await examineInPlace(hunt, expected, options);
  return isExpected(actual, expected);
}

async function examineInPlace(
  { store, image, asset }: Omit<Hunt, "installation">,
  expected: Expected | null,
  options: HuntOptions,
): Promise<Finding> {
  const path = store.layout.asset(image.name, asset.kind);
  if (expected === null) return store.blobs.read(path, hashing(asset, options));
  return store.blobs.examine(path, expected.contentDigest, hashing(asset, options));
}

/** Where nobody has said what the bytes must be, any are taken. */
function isExpected(actual: string | null, expected: Expected | null): actual is string {
  return actual !== null && (expected === null || actual === expected.contentDigest);
}

/** Downloads it, or waits for another process that does and takes what that one has brought. */
async function fromAddress(hunt: Hunt, options: HuntOptions): Promise<Obtained> {
  const { store, asset, image } = hunt;
  const address = addressOf(hunt);
  if (options.offline) {
    throw new ImageError("IMAGE_NOT_CACHED", `The ${asset.kind} of image '${image.name}' is not in the cache.`, {
      hint: `Get it while there is a network: smolvm image pull ${image.name}`,
      details: { name: image.name, asset: asset.kind, url: publicUrl(asset), cacheDir: store.cacheDir },
    });
  }
  for (;;) {
    const lock = await turnFor(hunt, address, options);
    try {
      const signal = AbortSignal.any([options.signal, lock.lost]);
      return (await fromStore(hunt, options)) ?? (await download(hunt, address, { ...options, signal }));
    } catch (error) {
      // A process that was stopped for long finds its lock gone to another one. That one has the download now.
      if (!lock.lost.aborted || options.signal.aborted) throw error;
    } finally {
      lock.release();
    }
  }
}

/** How often a call that waits for another's download tells how far that one is. */
const WATCH_MS = 200;

/** Waits until nobody else downloads from the address. Meanwhile the other's progress is the caller's. */
async function turnFor({ store, asset }: Hunt, address: Address, options: HuntOptions): Promise<Lock> {
  const key = addressKey(address);
  const watch = setInterval(() => {
    void import("./fetch/index.js").then(({ peekPartial }) => {
      const progress = peekPartial(join(store.layout.partials, key));
      if (progress !== null && watching) options.report({ asset: asset.kind, phase: "download", ...progress });
    });
  }, WATCH_MS);
  let watching = true;
  try {
    return await acquireLock(join(store.layout.locks, key), options.signal);
  } finally {
    watching = false;
    clearInterval(watch);
  }
}

async function download(hunt: Hunt, address: Address, options: HuntOptions): Promise<Obtained> {
  const { store, installation, asset, image } = hunt;
  const { discardPartial, mirrorsOf, transfer } = await import("./fetch/index.js");
  const partial = join(store.layout.partials, addressKey(address));
  const result = await transfer({
    urls: [...mirrorsOf(address.url, image.mirrors), address.url],
    digest: address.digest,
    partial,
    signal: options.signal,
    onProgress: ({ phase, bytes, total }) => options.report({ asset: asset.kind, phase, bytes, total }),
  });
  const before = remembered(hunt);
  if (before !== null && before.digest !== null && before.digest !== result.digest && !options.acceptNew) {
    await discardPartial(partial);
    throw changed(image.name, withoutCredentials(address.url), before.digest, result.digest);
  }
  await installation.publish(result.path, result.contentDigest, result.extents);
  await discardPartial(partial);
  const { digest, contentDigest, size } = result;
  const url = withoutCredentials(address.url);
  await store.sources.remember(address, { url, digest, contentDigest, seenAt: new Date().toISOString() });
  return { asset, record: { contentDigest, size, url, digest }, origin: "download" };
}

interface Expected {
  readonly digest: string | null;
  readonly contentDigest: string;
}

/** What the bytes are expected to be before any were fetched: by what the address served before, or by its pinned digest. */
function remembered(hunt: Omit<Hunt, "installation">): Expected | null {
  const { store, asset, record } = hunt;
  if (asset.url === null) return null;
  const seen = store.sources.recall({ url: asset.url, digest: asset.digest });
  if (seen !== null) return seen;
  const have = record?.assets[asset.kind];
  if (fitsAsset(have, asset) && have.digest !== null) return have;
  return asset.digest === null ? null : { digest: asset.digest, contentDigest: asset.digest };
}

function addressOf({ image, asset, record }: Hunt): Address {
  if (asset.url !== null) return { url: asset.url, digest: asset.digest };
  const kind = record?.origin.kind ?? "built";
  throw new ImageError("IMAGE_CHECKSUM_MISMATCH", `The ${asset.kind} of image '${image.name}' is damaged or missing.`, {
    hint: `The image was ${kind} here and can't be downloaded: ${kind === "imported" ? "import" : "build"} it again.`,
    details: { name: image.name, asset: asset.kind, expected: record?.assets[asset.kind]?.contentDigest ?? null },
  });
}

function changed(name: string, url: string, expected: string, actual: string): ImageError {
  return new ImageError(
    "IMAGE_CHECKSUM_MISMATCH",
    `SHA-256 mismatch for ${url}\n  expected: ${expected}\n  actual:   ${actual}`,
    {
      hint: `The address has no pinned digest and serves other bytes than before. To accept them: smolvm image pull --accept-new ${name}`,
      details: { name, url, expected, actual, remembered: true },
    },
  );
}

function hashing(asset: WantedAsset, { signal, trustStamps, report }: HuntOptions) {
  return {
    signal,
    trustStamps,
    onBytes: (bytes: number, total: number) => report({ asset: asset.kind, phase: "verify", bytes, total }),
  };
}
