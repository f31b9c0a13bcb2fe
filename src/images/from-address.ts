import { join } from "node:path";

import { ImageError } from "../errors.js";
import { acquireLock, type Lock } from "../host/lock.js";
import { withoutCredentials } from "./address.js";
import { expectedOf, type Expected, type Hunt, type HuntOptions, type Obtained, recorded } from "./hunt.js";
import { madeHere } from "./made-here.js";
import { addressKey, type Address, type ImageOrigin } from "./store/index.js";
import { publicUrl } from "./wanted.js";

/**
 * Downloads a file, or waits for another process that does and takes what that one has brought. `look` finds content that is in the
 * store.
 */
export async function fromAddress(
  hunt: Hunt,
  options: HuntOptions,
  look: (expected: Expected | null) => Promise<Obtained | null>,
): Promise<Obtained> {
  const address = addressOf(hunt);
  if (options.offline) throw notCached(hunt);
  for (;;) {
    const lock = await turnFor(hunt, address, options);
    try {
      const signal = AbortSignal.any([options.signal, lock.lost]);
      const brought =
        (await look(expectedOf(hunt))) ?? (options.acceptNew ? await accepted(hunt, address, look) : null);
      return brought ?? (await download(hunt, address, lock, { ...options, signal }));
    } catch (error) {
      // A process that was stopped for long finds its lock gone to another one. That one has the download now.
      if (lock.isHeld() || options.signal.aborted) throw error;
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
    void import("./fetch/index.js")
      .then(({ peekPartial }) => {
        const progress = peekPartial(join(store.layout.partials, key));
        if (progress !== null && watching) options.report({ asset: asset.kind, phase: "download", ...progress });
      })
      .catch(() => undefined); // only the display is poorer; what is wrong with the cache is told by the work on it
  }, WATCH_MS);
  let watching = true;
  try {
    return await acquireLock(join(store.layout.locks, key), options.signal);
  } finally {
    watching = false;
    clearInterval(watch);
  }
}

async function download(hunt: Hunt, address: Address, lock: Lock, options: HuntOptions): Promise<Obtained> {
  const { store, installation, asset, image } = hunt;
  const { discardPartial, mirrorsOf, transfer } = await import("./fetch/index.js");
  const partial = join(store.layout.partials, addressKey(address));
  const mirrors = mirrorsOf(address.url, image.mirrors);
  const result = await transfer({
    // What is new is what the address itself has: a mirror may be behind.
    urls: options.acceptNew && address.digest === null ? [address.url, ...mirrors] : [...mirrors, address.url],
    digest: address.digest,
    remembered: options.acceptNew ? null : (expectedOf(hunt)?.digest ?? null),
    partial,
    signal: options.signal,
    onProgress: ({ phase, bytes, total }) => options.report({ asset: asset.kind, phase, bytes, total }),
  });
  const { digest, contentDigest, size } = result;
  const url = withoutCredentials(address.url);
  const seen = { url, digest, contentDigest, seenAt: new Date().toISOString() };
  const refusal = options.acceptNew ? null : refusalOf(hunt, address, seen);
  await installation.publish(result.path, contentDigest, result.extents);
  // Without the lock it may be another process's by now.
  if (lock.isHeld()) await discardPartial(partial);
  if (refusal !== null) {
    // As content without a name it is nobody's image, and whoever accepts it needs no second download.
    await store.sources.refuse(address, seen);
    throw refusal;
  }
  await store.sources.remember(address, seen);
  return { asset, record: { contentDigest, size, url, digest }, origin: "download" };
}

/** What was refused a while ago, now that it is accepted, if it is still here. */
async function accepted(
  { store }: Hunt,
  address: Address,
  look: (expected: Expected | null) => Promise<Obtained | null>,
): Promise<Obtained | null> {
  const refused = store.sources.refused(address);
  const found = await look(refused);
  if (refused === null || found === null) return null;
  await store.sources.remember(address, refused);
  return { ...found, origin: "download" };
}

/** The error if a source without a pinned digest serves other bytes than the image has, or than it served before. */
function refusalOf(hunt: Hunt, address: Address, brought: Expected & { readonly url: string }): ImageError | null {
  if (address.digest !== null) return null;
  const known = [recorded(hunt), hunt.store.sources.recall(address)];
  const other = known.find((expected) => expected && expected.contentDigest !== brought.contentDigest);
  if (!other) return null;
  const { name } = hunt.image;
  const [expected, actual] =
    other.digest !== null && brought.digest !== null
      ? [other.digest, brought.digest]
      : [other.contentDigest, brought.contentDigest];
  return new ImageError(
    "IMAGE_CHECKSUM_MISMATCH",
    `SHA-256 mismatch for ${brought.url}\n  expected: ${expected}\n  actual:   ${actual}`,
    {
      hint: `The address has no pinned digest and serves other bytes than before. To accept them: smolvm image pull --accept-new ${name}`,
      details: { name, url: brought.url, expected, actual, remembered: true },
    },
  );
}

function addressOf({ image, asset, record }: Hunt): Address {
  if (asset.url !== null) return { url: asset.url, digest: asset.digest };
  const kind = record?.origin.kind ?? "built";
  throw new ImageError("IMAGE_CHECKSUM_MISMATCH", `The ${asset.kind} of image '${image.name}' is damaged or missing.`, {
    hint: again(image.name, kind),
    details: { name: image.name, asset: asset.kind, expected: record?.assets[asset.kind]?.contentDigest ?? null },
  });
}

/** How an image that has no address is had once more. */
function again(name: string, kind: ImageOrigin["kind"]): string {
  if (kind === "built" && madeHere(name) !== null)
    return `It was made on this host. Make it again with: smolvm image pull ${name}`;
  return `The image was ${kind} here and can't be downloaded: ${kind === "imported" ? "import" : "build"} it again.`;
}

function notCached({ store, image, asset, record }: Hunt): ImageError {
  const { name } = image;
  const details = { name, asset: asset.kind, url: publicUrl(asset), cacheDir: store.cacheDir };
  const have = record?.assets[asset.kind];
  if (record?.origin.kind === "imported" && have?.digest === null && asset.digest !== null) {
    return new ImageError(
      "IMAGE_NOT_CACHED",
      `The ${asset.kind} of image '${name}' came from an archive, which can't prove that it is what the pinned address serves.`,
      {
        hint: `Get it while there is a network: smolvm image pull ${name}. Or, if you trust the archive, import it with: smolvm image import --trust`,
        details,
      },
    );
  }
  return new ImageError("IMAGE_NOT_CACHED", `The ${asset.kind} of image '${name}' is not in the cache.`, {
    hint: `Get it while there is a network: smolvm image pull ${name}`,
    details,
  });
}
