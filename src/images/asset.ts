import { fromAddress } from "./from-address.js";
import { type Expected, expectedOf, hashing, type Hunt, type HuntOptions, type Obtained, recorded } from "./hunt.js";
import type { Finding } from "./store/index.js";
import { publicUrl } from "./wanted.js";

/** Gets one file of an image into the store, from the nearest place that has it. */
export async function obtainAsset(hunt: Hunt, options: HuntOptions): Promise<Obtained> {
  const look = (expected: Expected | null) => fromStore(hunt, expected, options);
  return (
    (await fromFolder(hunt, options)) ?? (await look(expectedOf(hunt))) ?? (await fromAddress(hunt, options, look))
  );
}

/**
 * The file in the image's own folder, if it is right. One that the image's record names and that is wrong is set aside, so that
 * nothing serves it. Any other stays until the image takes its place.
 */
async function fromFolder(hunt: Hunt, options: HuntOptions): Promise<Obtained | null> {
  const { store, installation, image, asset, record } = hunt;
  const have = recorded(hunt);
  const expected = expectedOf(hunt);
  const path = store.layout.asset(image.name, asset.kind);
  if (record !== null && have === null) {
    // Part of the image that this one replaces, unless another tool has put the right one there meanwhile.
    const old = record.assets[asset.kind]?.contentDigest;
    if (expected === null || (old !== undefined && old !== expected.contentDigest && store.blobs.isStamped(path, old)))
      return null;
  }
  const { actual, stat } = await examineInPlace(hunt, expected, options);
  if (stat === null || !isExpected(actual, expected)) {
    if (have !== null) {
      await installation.setAside(path, `${image.name}-${asset.kind}`, have.contentDigest, stat);
    }
    return null;
  }
  if (!(await installation.adopt(path, actual, stat, options))) return null;
  if (have !== null) return { asset, record: have, origin: "cache" };
  const size = Number(stat.size);
  const adopted = { contentDigest: actual, size, url: publicUrl(asset), digest: expected?.digest ?? null };
  return { asset, record: adopted, origin: "adopted" };
}

/** Content that is here under another name, or that has lost its name. */
async function fromStore(hunt: Hunt, expected: Expected | null, options: HuntOptions): Promise<Obtained | null> {
  if (expected === null) return null;
  const { store, installation, asset } = hunt;
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
  const expected = expectedOf(hunt);
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
