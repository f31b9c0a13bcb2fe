/** The door of the image room: what an image is, and having it here. */
export { BUILTIN_IMAGES } from "./builtin.js";
export { assertSpace, noSpace } from "./free-space.js";
export type { AssetSummary, ImageDetails, ImageSummary, VerifyReport } from "./inventory.js";
export { ImageManager, type EnsureOptions, type ImageManagerOptions, type WorkOptions } from "./manager.js";
export { madeHere } from "./made-here.js";
export type { ImageProgress, ProgressCallback } from "./progress.js";
export { loadRegistry } from "./registry.js";
export { NOT_WRITABLE } from "./storage-failure.js";
export { ImageSource, LocalImage, type ImageSourceFields, type LocalImageFields } from "./source.js";
export type { AssetKind, PruneReport } from "./store/index.js";
