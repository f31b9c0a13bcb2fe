import { obtainAsset, type HuntOptions, type Obtained } from "./asset.js";
import type { LocalImage } from "./source.js";
import type { ImageOrigin, ImageRecord, ImageStore } from "./store/index.js";
import { warnUnverified } from "./unverified.js";
import type { WantedImage } from "./wanted.js";

export interface BringOptions extends Omit<HuntOptions, "signal"> {
  readonly signal: AbortSignal | undefined;
}

/** Puts an image right: what is here already is used, the rest is downloaded, and all of it becomes visible at once. */
export async function bringImage(store: ImageStore, wanted: WantedImage, options: BringOptions): Promise<LocalImage> {
  const { name, bootArgs } = wanted;
  const record = await store.read(name);
  return store.installing(name, async (installation) => {
    const obtained = await together(options.signal, wanted.assets, async (asset, signal) => {
      const found = await obtainAsset({ store, installation, image: wanted, asset, record }, { ...options, signal });
      options.report({ asset: asset.kind, phase: "done", bytes: found.record.size, total: found.record.size });
      return found;
    });
    const unverified = obtained.filter(({ asset, origin }) => asset.digest === null && origin !== "cache");
    if (unverified.length > 0)
      warnUnverified(
        name,
        unverified.map(({ asset }) => asset.kind),
      );
    const assets = Object.fromEntries(obtained.map(({ asset, record: found }) => [asset.kind, found]));
    await installation.commit(name, { assets, bootArgs, origin: originOf(obtained, record) }, options.signal);
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
  signal?.throwIfAborted();
  failure.signal.throwIfAborted();
  return results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
}
