import { HostError } from "../errors.js";
import { isRightInPlace, obtainAsset } from "./asset.js";
import type { HuntOptions, Obtained } from "./hunt.js";
import { LocalImage } from "./source.js";
import type { ImageOrigin, ImageRecord, ImageStore } from "./store/index.js";
import { warnSetAside, warnUnverified } from "./warnings.js";
import type { WantedImage } from "./wanted.js";

export interface BringOptions extends Omit<HuntOptions, "signal"> {
  readonly signal: AbortSignal | undefined;
}

/** Puts an image right: what is here already is used, the rest is downloaded, and all of it becomes visible at once. */
export async function bringImage(store: ImageStore, wanted: WantedImage, options: BringOptions): Promise<LocalImage> {
  const record = await store.read(wanted.name);
  try {
    return await install(store, wanted, record, options);
  } catch (error) {
    const readOnly = error instanceof HostError && error.code === "HOST_PERMISSION";
    const image = readOnly && record === null ? await inPlace(store, wanted, options) : null;
    if (image === null) throw error;
    return image;
  }
}

async function install(
  store: ImageStore,
  wanted: WantedImage,
  record: ImageRecord | null,
  options: BringOptions,
): Promise<LocalImage> {
  const { name, bootArgs } = wanted;
  return store.installing(name, options.signal, async (installation) => {
    const obtained = await together(options.signal, wanted.assets, async (asset, signal) => {
      const found = await obtainAsset({ store, installation, image: wanted, asset, record }, { ...options, signal });
      options.report({ asset: asset.kind, phase: "done", bytes: found.record.size, total: found.record.size });
      return found;
    });
    const unverified = obtained
      .filter(({ asset, origin }) => asset.digest === null && origin !== "cache")
      .map(({ asset }) => asset.kind);
    if (unverified.length > 0) warnUnverified(name, unverified);
    const assets = Object.fromEntries(obtained.map(({ asset, record: found }) => [asset.kind, found]));
    const aside = await installation.commit(name, { assets, bootArgs, origin: originOf(obtained, record) });
    if (aside.length > 0) warnSetAside(name, aside);
  });
}

/** In a cache that can't be written, the files that another tool put there are used if they are right. */
async function inPlace(store: ImageStore, wanted: WantedImage, options: BringOptions): Promise<LocalImage | null> {
  const { name, bootArgs, assets } = wanted;
  const right = await together(options.signal, assets, (asset, signal) =>
    isRightInPlace({ store, image: wanted, asset, record: null }, { ...options, signal }),
  );
  if (right.includes(false)) return null;
  const unpinned = assets.filter(({ digest }) => digest === null).map(({ kind }) => kind);
  if (unpinned.length > 0) warnUnverified(name, unpinned);
  return new LocalImage({
    name,
    kernelPath: store.layout.asset(name, "kernel"),
    rootfsPath: store.layout.asset(name, "rootfs"),
    initrdPath: assets.some(({ kind }) => kind === "initrd") ? store.layout.asset(name, "initrd") : null,
    bootArgs,
  });
}

/** An image that was only put right stays what it was. */
function originOf(obtained: readonly Obtained[], record: ImageRecord | null): ImageOrigin {
  if (obtained.some(({ origin }) => origin === "adopted")) return { kind: "adopted" };
  const unchanged = obtained.every(
    ({ asset, record: found }) => record?.assets[asset.kind]?.contentDigest === found.contentDigest,
  );
  return record !== null && unchanged ? record.origin : { kind: "registry" };
}

/**
 * Does the same for several things side by side. The first failure aborts the others, and is thrown when all have come to
 * their end: nothing goes on behind the caller's back.
 */
async function together<T, R>(
  signal: AbortSignal | undefined,
  things: readonly T[],
  work: (thing: T, signal: AbortSignal) => Promise<R>,
): Promise<R[]> {
  const failure = new AbortController();
  const joint = signal === undefined ? failure.signal : AbortSignal.any([signal, failure.signal]);
  const results = await Promise.allSettled(
    things.map((thing) =>
      work(thing, joint).catch((error: unknown) => {
        failure.abort(error);
        throw error;
      }),
    ),
  );
  failure.signal.throwIfAborted();
  return results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
}
