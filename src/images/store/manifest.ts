import { isImageName } from "../name.js";
import { ASSET_FILES } from "./layout.js";
import { assetsOf, parseRecord, type AssetKind, type AssetRecord, type ImageRecord } from "./record.js";

/** The first member of an archive: what the image is, and what the members after it must be. */
export const MANIFEST_FILE = "manifest.json";
export const MAX_MANIFEST_BYTES = 256 * 1024;

const FORMAT = "smolvm-image-archive";
const VERSION = 1;

export function formatManifest(record: ImageRecord): string {
  return `${JSON.stringify({ archive: FORMAT, version: VERSION, image: { format: 1, ...record } }, null, 2)}\n`;
}

/** The record of the archived image, or a word on what is wrong. */
export function parseManifest(text: string): ImageRecord | string {
  let value: { archive?: unknown; version?: unknown; image?: { name?: unknown } } | null;
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    return "its manifest is not JSON";
  }
  if (value?.archive !== FORMAT) return "its manifest is not that of an image archive";
  if (value.version !== VERSION)
    return `its format is version ${String(value.version).slice(0, 20)}, and this smolvm reads version ${VERSION}`;
  const name = value.image?.name;
  if (typeof name !== "string" || !isImageName(name)) return "its manifest gives the image a name that none can have";
  return parseRecord(value.image, name) ?? "its manifest does not describe an image";
}

/** The members that follow the manifest, by their names. */
export function membersOf(
  record: ImageRecord,
): ReadonlyMap<string, { readonly kind: AssetKind; readonly asset: AssetRecord }> {
  return new Map(assetsOf(record).map(([kind, asset]) => [ASSET_FILES[kind], { kind, asset }]));
}
