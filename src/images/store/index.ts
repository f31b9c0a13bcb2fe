/** Bytes at rest: immutable content named by its digest, and images that are names for it. */
import type { LocalImage } from "../source.js";
import type { AssetKind, Extents, ImageOrigin, ImageRecord } from "./record.js";

export { ASSET_KINDS, type AssetKind, type AssetRecord, type Extents, type ImageOrigin, type ImageRecord } from "./record.js";

export interface AssetSource {
  /** A finished file on the cache's file system (from `temporaryFile`). It is consumed. */
  readonly path: string;
  /** Trusted if given; hashed otherwise. */
  readonly contentDigest?: string | undefined;
  readonly extents?: Extents | undefined;
}
export interface InstallRequest {
  readonly assets: { readonly kernel: AssetSource; readonly rootfs: AssetSource; readonly initrd?: AssetSource | undefined };
  readonly bootArgs?: string | null | undefined;
  readonly origin: ImageOrigin;
}
export interface Lease {
  /** The leased paths in the order they were given, each the immutable blob where the path is a cached image's file, else unchanged. */
  readonly paths: readonly string[];
  release(): Promise<void>;
}
export interface OpenOptions {
  readonly verify?: "auto" | "full" | undefined;
  readonly signal?: AbortSignal | undefined;
}
export declare class ImageStore {
  readonly cacheDir: string;
  constructor(cacheDir: string);
  /** A path in the cache's own file system for a builder to write to; nothing is there yet. Prune leaves it alone while this process lives. */
  temporaryFile(hint: string): Promise<string>;
  install(name: string, request: InstallRequest, options?: { signal?: AbortSignal | undefined }): Promise<LocalImage>;
  read(name: string): Promise<ImageRecord | null>;
  open(name: string, options?: OpenOptions): Promise<LocalImage | { readonly damaged: readonly AssetKind[] } | null>;
  /** Lasts until released, or until both this process and the machine's folder (`<machinesDir>/<vmId>`) are gone. */
  lease(paths: readonly string[], holder: { readonly vmId: string }): Promise<Lease>;
}
/** Copies with holes kept: reflink, else the given extents, else a scan for zeros. `to` must not exist. */
export declare function copySparse(
  from: string,
  to: string,
  options?: { readonly extents?: Extents | undefined; readonly signal?: AbortSignal | undefined },
): Promise<void>;
