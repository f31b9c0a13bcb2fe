/** Bytes at rest: immutable content named by its digest, and images that are names for it. */
export type { Finding } from "./blobs.js";
export { exportImage } from "./export.js";
export { importImage, type ImportOptions } from "./import.js";
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
export { ImageStore, type AssetSource, type InstallRequest, type Lease, type OpenOptions } from "./store.js";
