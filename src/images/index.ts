/** The door of the image room: what an image is, and having it here. */
import type { ImageSource, ImageSourceFields, LocalImage } from "./source.js";
import type { AssetKind } from "./store/index.js";

export { ImageSource, LocalImage, type ImageSourceFields, type LocalImageFields } from "./source.js";

export interface ImageProgress {
  readonly image: string;
  readonly asset: AssetKind;
  readonly phase: "download" | "verify" | "done";
  readonly bytes: number;
  readonly total: number | null;
}
export interface EnsureOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ImageProgress) => void) | undefined;
  readonly verify?: "auto" | "full" | undefined;
  readonly offline?: boolean | undefined;
  /** Take what an unverified source serves now, even if it differs from what it served before. */
  readonly acceptNew?: boolean | undefined;
}
type Work = { readonly signal?: AbortSignal | undefined; readonly onProgress?: ((progress: ImageProgress) => void) | undefined };

export interface AssetSummary {
  readonly kind: AssetKind;
  readonly path: string;
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly contentDigest: string;
  readonly url: string | null;
  readonly digest: string | null;
  readonly verifiedAt: string | null;
}
export interface ImageSummary {
  readonly name: string;
  readonly cached: boolean;
  /** "registry" | "built" | "imported" | "adopted" */
  readonly origin: string;
  readonly source: string | null;
  readonly sizeBytes: number | null;
  readonly allocatedBytes: number | null;
  readonly verifiedAt: string | null;
}
export interface ImageDetails extends ImageSummary {
  readonly path: string;
  readonly bootArgs: string | null;
  readonly installedAt: string | null;
  readonly assets: readonly AssetSummary[];
  readonly leasedBy: readonly string[];
}
export interface VerifyReport {
  readonly name: string;
  readonly ok: boolean;
  readonly assets: readonly { readonly kind: AssetKind; readonly ok: boolean; readonly expected: string; readonly actual: string | null }[];
}
export interface PruneReport {
  readonly dryRun: boolean;
  readonly removed: readonly { readonly what: "blob" | "partial" | "lock" | "lease" | "temporary" | "damaged"; readonly path: string; readonly allocatedBytes: number }[];
  readonly freedBytes: number;
}
export declare const BUILTIN_IMAGES: Readonly<Record<"hello" | "quickstart-x86_64", ImageSource>>;
export declare function loadRegistry(fileOrUrl: string): Promise<Record<string, ImageSource>>;
export declare class ImageManager {
  readonly cacheDir: string;
  constructor(options?: { cacheDir?: string | undefined; registry?: Readonly<Record<string, ImageSource | ImageSourceFields>> | undefined });
  listAvailable(): string[];
  isCached(name: string): Promise<boolean>;
  ensureImage(name: string, options?: EnsureOptions): Promise<LocalImage>;
  /** Every image of the registry and of the cache, by name. */
  list(): Promise<ImageSummary[]>;
  inspect(name: string): Promise<ImageDetails>;
  /** Reads every byte; repairs nothing. */
  verify(name: string, options?: Work): Promise<VerifyReport>;
  /** IMAGE_IN_USE while a machine holds it. */
  remove(name: string): Promise<{ readonly freedBytes: number }>;
  prune(options?: { readonly dryRun?: boolean | undefined }): Promise<PruneReport>;
  exportArchive(name: string, path: string, options?: Work): Promise<{ readonly path: string; readonly bytes: number }>;
  importArchive(path: string, options?: Work & { readonly name?: string | undefined; readonly force?: boolean | undefined }): Promise<LocalImage>;
  /** What the cache knows to belong to a cached kernel; null for any other path. */
  companionsOf(kernelPath: string): Promise<{ readonly initrdPath?: string; readonly bootArgs?: string } | null>;
}
