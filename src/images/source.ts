import { isAbsolute } from "node:path";
import { inspect } from "node:util";

import { ValidationError } from "../errors.js";
import { assertImageName } from "./name.js";

/** What `new ImageSource()` takes. A digest that is left out, null or undefined is not verified. */
export interface ImageSourceFields {
  readonly name: string;
  readonly kernelUrl: string;
  readonly kernelSha256?: string | null | undefined;
  readonly rootfsUrl: string;
  readonly rootfsSha256?: string | null | undefined;
  readonly initrdUrl?: string | null | undefined;
  readonly initrdSha256?: string | null | undefined;
  readonly bootArgs?: string | null | undefined;
  /** Base addresses that hold the same files under the same paths, asked before the image's own. */
  readonly mirrors?: readonly string[] | null | undefined;
}

const SOURCE_FIELDS = [
  "name",
  "kernelUrl",
  "kernelSha256",
  "rootfsUrl",
  "rootfsSha256",
  "initrdUrl",
  "initrdSha256",
  "bootArgs",
  "mirrors",
] as const satisfies readonly (keyof ImageSourceFields)[];

/** Linux takes at most 2048 bytes of command line on x86-64 and arm64 (COMMAND_LINE_SIZE); smolvm needs some of them. */
const MAX_BOOT_ARGS = 1536;
const MAX_URL = 8192;

/**
 * Where an image can be had: the addresses of its kernel and root filesystem, and what their bytes must hash to.
 * Frozen. A digest is the SHA-256 of the bytes at the address, 64 hex digits of any case, kept in lower case.
 * Throws a ValidationError that names the field, its value and what is allowed.
 */
export class ImageSource {
  readonly name: string;
  readonly kernelUrl: string;
  readonly kernelSha256: string | null;
  readonly rootfsUrl: string;
  readonly rootfsSha256: string | null;
  readonly initrdUrl: string | null;
  readonly initrdSha256: string | null;
  readonly bootArgs: string | null;
  readonly mirrors: readonly string[];

  constructor(fields: ImageSourceFields) {
    const given = knownFields("ImageSource", fields, SOURCE_FIELDS);
    assertImageName(given["name"]);
    this.name = given["name"];
    this.kernelUrl = url("kernelUrl", given["kernelUrl"]);
    this.kernelSha256 = optional(digest, "kernelSha256", given["kernelSha256"]);
    this.rootfsUrl = url("rootfsUrl", given["rootfsUrl"]);
    this.rootfsSha256 = optional(digest, "rootfsSha256", given["rootfsSha256"]);
    this.initrdUrl = optional(url, "initrdUrl", given["initrdUrl"]);
    this.initrdSha256 = optional(digest, "initrdSha256", given["initrdSha256"]);
    this.bootArgs = optional(bootArgs, "bootArgs", given["bootArgs"]);
    this.mirrors = Object.freeze(mirrors("mirrors", given["mirrors"] ?? []));
    if (this.initrdSha256 !== null && this.initrdUrl === null) {
      throw invalid("initrdSha256", this.initrdSha256, "null where there is no initrdUrl");
    }
    Object.freeze(this);
  }
}

export interface LocalImageFields {
  readonly name: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath?: string | null | undefined;
  readonly bootArgs?: string | null | undefined;
}

const LOCAL_FIELDS = [
  "name",
  "kernelPath",
  "rootfsPath",
  "initrdPath",
  "bootArgs",
] as const satisfies readonly (keyof LocalImageFields)[];

/** An image that is on this machine. Frozen; the paths are absolute; `initrdPath` and `bootArgs` are null if the image has none. */
export class LocalImage {
  readonly name: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath: string | null;
  readonly bootArgs: string | null;

  constructor(fields: LocalImageFields) {
    const given = knownFields("LocalImage", fields, LOCAL_FIELDS);
    assertImageName(given["name"]);
    this.name = given["name"];
    this.kernelPath = path("kernelPath", given["kernelPath"]);
    this.rootfsPath = path("rootfsPath", given["rootfsPath"]);
    this.initrdPath = optional(path, "initrdPath", given["initrdPath"]);
    this.bootArgs = optional(bootArgs, "bootArgs", given["bootArgs"]);
    Object.freeze(this);
  }
}

/** The fields, none of which may be one that the owner does not have: a misspelt digest must not become no digest. */
export function knownFields(
  owner: string,
  fields: unknown,
  allowed: readonly string[],
): Readonly<Record<string, unknown>> {
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
    throw new ValidationError(`${owner} needs an object with the fields ${allowed.join(", ")}`);
  }
  const unknown = Object.keys(fields).filter((key) => !allowed.includes(key));
  if (unknown.length > 0) {
    throw new ValidationError(
      `${owner} has no field ${unknown.map((key) => `'${key}'`).join(", ")}; allowed are ${allowed.join(", ")}`,
      { details: { fields: unknown, allowed } },
    );
  }
  return fields as Readonly<Record<string, unknown>>;
}

function optional(check: (field: string, value: unknown) => string, field: string, value: unknown): string | null {
  return value === undefined || value === null ? null : check(field, value);
}

/** The schemes that assets are fetched by. */
const PROTOCOLS = ["http:", "https:", "file:"];

function url(field: string, value: unknown): string {
  const objection = objectionToAddress(value);
  if (objection !== null) throw invalid(field, value, objection);
  return value as string;
}

/** Whether an asset can have this address. */
export function isAddress(value: unknown): value is string {
  return objectionToAddress(value) === null;
}

/** What an address has to be, where it is not that. */
function objectionToAddress(value: unknown): string | null {
  const allowed = "an http:, https: or file: address";
  if (typeof value !== "string" || value.length > MAX_URL || /[\p{Cc}\s]/u.test(value)) return allowed;
  if (!URL.canParse(value)) return allowed;
  const parsed = new URL(value);
  if (!PROTOCOLS.includes(parsed.protocol)) return allowed;
  // A file on another host is not a file here, and opening it would quietly open another one.
  return parsed.protocol === "file:" && parsed.host !== "" ? "a file: address without a host" : null;
}

function mirrors(field: string, value: unknown): string[] {
  if (!Array.isArray(value)) throw invalid(field, value, "a list of http: or https: addresses");
  return value.map((base: unknown) => {
    const address = url(field, base);
    if (!/^https?:/i.test(address)) throw invalid(field, base, "a list of http: or https: addresses");
    return address;
  });
}

function digest(field: string, value: unknown): string {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/i.test(value)) {
    throw invalid(field, value, "a SHA-256 of 64 hex digits, or null");
  }
  return value.toLowerCase();
}

function path(field: string, value: unknown): string {
  if (typeof value !== "string" || !isAbsolute(value) || value.includes("\0")) {
    throw invalid(field, value, "an absolute path");
  }
  return value;
}

function bootArgs(field: string, value: unknown): string {
  if (!isBootArgs(value)) throw invalid(field, value, `one line of at most ${MAX_BOOT_ARGS} characters`);
  return value;
}

/** Whether a kernel can be given these arguments. */
export function isBootArgs(value: unknown): value is string {
  return typeof value === "string" && value.length <= MAX_BOOT_ARGS && !/\p{Cc}/u.test(value);
}

function invalid(field: string, value: unknown, allowed: string): ValidationError {
  const shown = value === undefined ? "missing" : inspect(value, { depth: 0, breakLength: Infinity }).slice(0, 200);
  return new ValidationError(`${field} is ${shown}; allowed is ${allowed}`, { details: { field, value, allowed } });
}
