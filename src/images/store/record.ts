import { isObject } from "../../json.js";
import { isImageName } from "../name.js";
import { isAddress, isBootArgs } from "../source.js";
import { parseJson, readSmallFile } from "./look.js";

/** The parts that an image is made of. Every image has a kernel and a root filesystem; the initrd is for those that need one. */
export const ASSET_KINDS = ["kernel", "initrd", "rootfs"] as const;
export type AssetKind = (typeof ASSET_KINDS)[number];

/** Runs of data in a sparse file, `[start, end)` in bytes, ascending. What lies between them is holes. */
export type Extents = readonly (readonly [start: number, end: number])[];

/** What is known of one file of an image. */
export interface AssetRecord {
  /** SHA-256 of the file's bytes, lower-case hex: the name of its blob. */
  readonly contentDigest: string;
  /** Apparent size in bytes. */
  readonly size: number;
  /** Where it was downloaded from, or null if it was built here. */
  readonly url: string | null;
  /** SHA-256 of the bytes at `url`; differs from `contentDigest` if those are compressed. Null if they were never seen. */
  readonly digest: string | null;
}

/** How an image came into the cache. `details` are for people and for the room that put it there, such as a builder's recipe. */
export interface ImageOrigin {
  readonly kind: "registry" | "built" | "imported" | "adopted";
  readonly details?: Readonly<Record<string, string>>;
}

/** The contents of `image.json`. */
export interface ImageRecord {
  readonly name: string;
  readonly assets: {
    readonly kernel: AssetRecord;
    readonly rootfs: AssetRecord;
    readonly initrd?: AssetRecord;
  };
  /** Arguments that the image wants on the kernel's command line. */
  readonly bootArgs: string | null;
  readonly origin: ImageOrigin;
  /** ISO 8601, UTC. */
  readonly installedAt: string;
}

/** The version of image.json that this code writes, and the only one that it reads. */
const FORMAT = 1;
const MAX_BYTES = 256 * 1024;
const ORIGINS: readonly string[] = ["registry", "built", "imported", "adopted"];

export function formatRecord(record: ImageRecord): string {
  return `${JSON.stringify({ format: FORMAT, ...record }, null, 2)}\n`;
}

/**
 * The record of an image, or null if there is none that can be relied on: absent, torn, of another format, or of
 * another image. Without a record the files beside it are judged as files that another tool put there.
 */
export function readRecord(path: string, name: string): ImageRecord | null {
  return parseRecord(parseJson(readSmallFile(path, MAX_BYTES)), name);
}

/** The name of the image that a record is of, whatever folder it is in; null if it can't be relied on. */
export function nameInRecord(path: string): string | null {
  const value = parseJson(readSmallFile(path, MAX_BYTES));
  if (!isObject(value)) return null;
  const { name } = value;
  return typeof name === "string" && isImageName(name) && parseRecord(value, name) !== null ? name : null;
}

export function parseRecord(value: unknown, name: string): ImageRecord | null {
  if (!isObject(value) || value["format"] !== FORMAT || value["name"] !== name || !isObject(value["assets"]))
    return null;
  const kernel = parseAsset(value["assets"]["kernel"]);
  const rootfs = parseAsset(value["assets"]["rootfs"]);
  const initrd = value["assets"]["initrd"] === undefined ? undefined : parseAsset(value["assets"]["initrd"]);
  const origin = parseOrigin(value["origin"]);
  const { bootArgs, installedAt } = value;
  if (kernel === null || rootfs === null || initrd === null || origin === null) return null;
  // What a source may not have an image may not have either: an archive or an editor may have written this.
  if ((bootArgs !== null && !isBootArgs(bootArgs)) || !isTime(installedAt)) return null;
  return { name, assets: { kernel, rootfs, ...(initrd && { initrd }) }, bootArgs, origin, installedAt };
}

function parseAsset(value: unknown): AssetRecord | null {
  if (!isObject(value)) return null;
  const { contentDigest, size, url, digest } = value;
  if (!isDigest(contentDigest) || !isSize(size) || (url !== null && !isAddress(url))) return null;
  if (digest !== null && !isDigest(digest)) return null;
  return { contentDigest, size, url, digest };
}

function parseOrigin(value: unknown): ImageOrigin | null {
  if (!isObject(value)) return null;
  const { kind, details } = value;
  if (typeof kind !== "string" || !ORIGINS.includes(kind)) return null;
  if (details === undefined) return { kind: kind as ImageOrigin["kind"] };
  if (!isObject(details) || !Object.values(details).every((text) => typeof text === "string")) return null;
  return { kind: kind as ImageOrigin["kind"], details: details as Record<string, string> };
}

export function isDigest(value: unknown): value is string {
  return typeof value === "string" && /^[0-9a-f]{64}$/.test(value);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isTime(value: unknown): value is string {
  return typeof value === "string" && /^\d{4}-\d\d-\d\dT[\d:.]{1,20}Z$/.test(value);
}

/** The assets that a record has, in the order of `ASSET_KINDS`. */
export function assetsOf(record: ImageRecord): [AssetKind, AssetRecord][] {
  return ASSET_KINDS.flatMap((kind) => {
    const asset = record.assets[kind];
    return asset === undefined ? [] : [[kind, asset] as [AssetKind, AssetRecord]];
  });
}
