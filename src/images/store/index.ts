/** Bytes at rest: immutable content named by its digest, and images that are names for it. */
import type { exportImage as Export } from "./export.js";
import type { importImage as Import } from "./import.js";

export type { Finding } from "./blobs.js";
export type { Installation } from "./installation.js";
export type { PruneReport } from "./prune.js";
export type { Removal } from "./remove.js";
export {
  ASSET_KINDS,
  assetsOf,
  type AssetKind,
  type AssetRecord,
  type Extents,
  type ImageOrigin,
  type ImageRecord,
} from "./record.js";
export { addressKey, type Address } from "./sources.js";
export { copySparse } from "./sparse.js";
export { type AssetSource, ImageStore } from "./store.js";

/* Archives are rare, and whoever only lists the images must not wait for what reads and writes them. */
export const exportImage: typeof Export = async (...args) => (await import("./export.js")).exportImage(...args);
export const importImage: typeof Import = async (...args) => (await import("./import.js")).importImage(...args);
