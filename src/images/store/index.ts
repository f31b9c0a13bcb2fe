/** Bytes at rest: immutable content named by its digest, and images that are names for it. */
import type { exportImage as Export } from "./export.js";
import type { importImage as Import } from "./import.js";

export type { Finding } from "./blobs.js";
export type { ImportOptions } from "./import.js";
export type { Installation } from "./installation.js";
export { acquireLock } from "./locks.js";
export type { Pruned, PruneReport } from "./prune.js";
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
export { copySparse, type CopyOptions } from "./sparse.js";
export { ImageStore, type AssetSource, type InstallRequest, type OpenOptions } from "./store.js";
export type { Lease } from "./machine-lease.js";

/* Archives are rare, and whoever only lists the images must not wait for what reads and writes them. */
export const exportImage: typeof Export = async (...args) => (await import("./export.js")).exportImage(...args);
export const importImage: typeof Import = async (...args) => (await import("./import.js")).importImage(...args);
