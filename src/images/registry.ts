import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { ImageError, ValidationError } from "../errors.js";
import { isErrno } from "../host/errno.js";
import { isObject } from "../json.js";
import { withoutCredentials } from "./address.js";
import { checkOptions } from "./arguments.js";
import { ImageSource, type ImageSourceFields } from "./source.js";

/** A registry lists images by name, a few hundred bytes each. */
const MAX_BYTES = 4 * 1024 * 1024;

/** The keys of an image in a registry file, in either spelling, and the fields that they are. */
const FIELDS: Readonly<Record<string, keyof ImageSourceFields>> = {
  name: "name",
  kernelUrl: "kernelUrl",
  kernel_url: "kernelUrl",
  kernelSha256: "kernelSha256",
  kernel_sha256: "kernelSha256",
  rootfsUrl: "rootfsUrl",
  rootfs_url: "rootfsUrl",
  rootfsSha256: "rootfsSha256",
  rootfs_sha256: "rootfsSha256",
  initrdUrl: "initrdUrl",
  initrd_url: "initrdUrl",
  initrdSha256: "initrdSha256",
  initrd_sha256: "initrdSha256",
  bootArgs: "bootArgs",
  boot_args: "bootArgs",
  mirrors: "mirrors",
};

/**
 * Reads a registry: a JSON object that maps names to images, or `{ "images": {…}, "mirrors": […] }`. Its schema is published with the
 * package as `smolvm/registry.schema.json`. An image's `name` may be left out; it is its key.
 * @param fileOrUrl a path, or an http:, https: or file: address
 * @param options `signal` ends the fetching with the signal's own reason
 * @throws ValidationError for an unknown or wrong field; ImageError `IMAGE_INVALID` for what can't be read or is no JSON, and
 * `IMAGE_DOWNLOAD_FAILED` for what can't be fetched
 */
export async function loadRegistry(
  fileOrUrl: string,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<Record<string, ImageSource>> {
  if (typeof fileOrUrl !== "string" || fileOrUrl === "") {
    throw new ValidationError("loadRegistry needs the path or the address of a JSON file");
  }
  checkOptions(options, ["signal"]);
  const { signal } = options;
  signal?.throwIfAborted();
  const shown = withoutCredentials(fileOrUrl);
  const isAddress = /^https?:/i.test(fileOrUrl);
  const text = isAddress ? await download(fileOrUrl, shown, signal) : await readLocal(fileOrUrl, shown);
  let value: unknown;
  try {
    value = JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (error) {
    throw new ImageError("IMAGE_INVALID", `The registry ${shown} is not JSON: ${(error as Error).message}`, {
      details: { registry: shown },
      cause: error,
    });
  }
  return parseRegistry(value, shown);
}

function parseRegistry(value: unknown, from: string): Record<string, ImageSource> {
  const top = { ...objectAt(value, `the registry ${from}`) };
  delete top["$schema"];
  // A registry of its own form may still have an image of the name "images".
  const wrapped = isObject(top["images"]) && !Object.keys(top["images"]).some((key) => FIELDS[key] === "kernelUrl");
  if (wrapped) refuseUnknown(top, ["images", "mirrors"], `the registry ${from}`);
  const images = wrapped ? objectAt(top["images"], `images in the registry ${from}`) : top;
  const shared = wrapped && top["mirrors"] !== undefined ? { mirrors: top["mirrors"] as readonly string[] } : {};
  const sources = Object.entries(images).map(([name, image]) => {
    const where = `image '${name}' in the registry ${from}`;
    const fields = { name, ...shared, ...normalised(objectAt(image, where), where) };
    if (fields.name !== name) {
      throw new ValidationError(`${where} calls itself '${fields.name}'; the two must be the same`);
    }
    return [name, sourceAt(fields, where)] as const;
  });
  return Object.fromEntries(sources);
}

function normalised(image: Readonly<Record<string, unknown>>, where: string): Partial<ImageSourceFields> {
  refuseUnknown(image, Object.keys(FIELDS), where);
  const fields = new Map<string, unknown>();
  for (const [key, value] of Object.entries(image)) {
    const field = FIELDS[key] ?? key;
    if (fields.has(field)) throw new ValidationError(`${where} has ${field} twice, in both spellings`);
    fields.set(field, value);
  }
  return Object.fromEntries(fields);
}

function sourceAt(fields: Partial<ImageSourceFields>, where: string): ImageSource {
  try {
    return new ImageSource(fields as ImageSourceFields);
  } catch (error) {
    if (!(error instanceof ValidationError)) throw error;
    throw new ValidationError(`${where}: ${error.message}`, { details: error.details, cause: error });
  }
}

function refuseUnknown(value: Readonly<Record<string, unknown>>, allowed: readonly string[], where: string): void {
  const unknown = Object.keys(value).filter((key) => !allowed.includes(key));
  if (unknown.length === 0) return;
  throw new ValidationError(
    `${where} has unknown fields: ${unknown.map((key) => `'${key}'`).join(", ")}; allowed are ${allowed.join(", ")}`,
    { details: { fields: unknown, allowed } },
  );
}

function objectAt(value: unknown, where: string): Record<string, unknown> {
  if (!isObject(value)) throw new ValidationError(`${where} must be a JSON object`);
  return value;
}

async function readLocal(fileOrUrl: string, shown: string): Promise<string> {
  try {
    const path = /^file:/i.test(fileOrUrl) ? fileURLToPath(fileOrUrl) : fileOrUrl;
    // Without waiting: opening a pipe would otherwise last until somebody writes to it.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stat = await file.stat();
      if (!stat.isFile()) throw unreadable(shown, "it is not a regular file");
      if (stat.size > MAX_BYTES) throw tooLarge(shown);
      // Its size may say nothing, as below /proc.
      const buffer = Buffer.alloc(MAX_BYTES + 1);
      let length = 0;
      for (let read = -1; read !== 0 && length < buffer.length; length += read) {
        ({ bytesRead: read } = await file.read(buffer, length, buffer.length - length));
      }
      if (length > MAX_BYTES) throw tooLarge(shown);
      return buffer.toString("utf8", 0, length);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof ImageError) throw error;
    throw unreadable(shown, isErrno(error, "ENOENT") ? "there is no such file" : (error as Error).message, error);
  }
}

function unreadable(registry: string, reason: string, cause?: unknown): ImageError {
  return new ImageError("IMAGE_INVALID", `The registry ${registry} can't be read: ${reason}.`, {
    hint: "Give the path of a JSON file that this user can read, or its address with http: or https:.",
    details: { registry },
    cause,
  });
}

async function download(url: string, shown: string, signal: AbortSignal | undefined): Promise<string> {
  const { fetchSmall } = await import("./fetch/index.js");
  const bytes = await fetchSmall({ url, maxBytes: MAX_BYTES, signal });
  if (bytes === null) throw tooLarge(shown);
  return bytes.toString("utf8");
}

function tooLarge(registry: string): ImageError {
  return new ImageError("IMAGE_INVALID", `The registry ${registry} is larger than ${MAX_BYTES / 2 ** 20} MiB.`, {
    details: { registry, maxBytes: MAX_BYTES },
  });
}
