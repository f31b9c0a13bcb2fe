export interface ImageSourceFields {
  readonly name: string;
  readonly kernelUrl: string;
  readonly kernelSha256?: string | null | undefined;
  readonly rootfsUrl: string;
  readonly rootfsSha256?: string | null | undefined;
  readonly initrdUrl?: string | null | undefined;
  readonly initrdSha256?: string | null | undefined;
  readonly bootArgs?: string | null | undefined;
}
export declare class ImageSource {
  readonly name: string;
  readonly kernelUrl: string;
  readonly kernelSha256: string | null;
  readonly rootfsUrl: string;
  readonly rootfsSha256: string | null;
  readonly initrdUrl: string | null;
  readonly initrdSha256: string | null;
  readonly bootArgs: string | null;
  constructor(fields: ImageSourceFields);
}
export interface LocalImageFields {
  readonly name: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath?: string | null | undefined;
  readonly bootArgs?: string | null | undefined;
}
/** Frozen; absolute paths; absent optional fields are null. */
export declare class LocalImage {
  readonly name: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath: string | null;
  readonly bootArgs: string | null;
  constructor(fields: LocalImageFields);
}
