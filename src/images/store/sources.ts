import { rmSync } from "node:fs";
import { join } from "node:path";

import { isObject } from "../../json.js";
import { withoutCredentials } from "../address.js";
import { replaceFileDurably, setAside } from "./durable.js";
import type { Layout } from "./layout.js";
import { entryAt, parseJson, readSmallFile } from "./look.js";
import { isDigest } from "./record.js";

/** An address and what its bytes must hash to, if that is known. */
export interface Address {
  readonly url: string;
  readonly digest: string | null;
}

/** What an address was seen to serve. */
export interface Seen {
  readonly url: string;
  /** SHA-256 of the bytes at the address. */
  readonly digest: string;
  /** SHA-256 of the file that came of them: another one if they were compressed. */
  readonly contentDigest: string;
  /** ISO 8601, UTC. */
  readonly seenAt: string;
}

const MAX_BYTES = 64 * 1024;
/** What was refused longer ago is not what a user accepts who has just been told of it. */
const REFUSED_KEPT_MS = 24 * 60 * 60 * 1000;

/**
 * One name for the work on an address: of its lock, its partial download and the memory of what it served. Pinned bytes are the
 * same wherever they come from; others are known by their address alone.
 */
export function addressKey({ url, digest }: Address): string {
  if (digest !== null) return digest;
  const { createHash } = process.getBuiltinModule("node:crypto"); // loading it takes a while, and lists don't need it
  return createHash("sha256")
    .update(`url:${withoutCredentials(url)}`)
    .digest("hex");
}

/**
 * The memory of what addresses served. It finds content that is here already under another image's name, and it is what
 * a source without a digest is held to from its second download on. It outlives the images.
 */
export class SeenSources {
  readonly #layout: Layout;

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  recall(address: Address): Seen | null {
    return this.#read(this.#path(address));
  }

  async remember(address: Address, seen: Seen): Promise<void> {
    await this.#write(this.#path(address), seen);
    rmSync(this.#refusedPath(address), { recursive: true, force: true });
  }

  /** Notes what an address served that was not accepted. */
  refuse(address: Address, seen: Seen): Promise<void> {
    return this.#write(this.#refusedPath(address), seen);
  }

  /** What was refused of an address within the last day. */
  refused(address: Address): Seen | null {
    const seen = this.#read(this.#refusedPath(address));
    return seen !== null && Date.now() - Date.parse(seen.seenAt) < REFUSED_KEPT_MS ? seen : null;
  }

  #read(path: string): Seen | null {
    const value = parseJson(readSmallFile(path, MAX_BYTES));
    if (!isObject(value)) return null;
    const { url, digest, contentDigest, seenAt } = value;
    if (typeof url !== "string" || !isDigest(digest) || !isDigest(contentDigest) || typeof seenAt !== "string")
      return null;
    return { url, digest, contentDigest, seenAt };
  }

  async #write(path: string, seen: Seen): Promise<void> {
    if (entryAt(path)?.isDirectory()) setAside(this.#layout, path, "source");
    await replaceFileDurably(path, `${JSON.stringify(seen, null, 2)}\n`);
  }

  #path(address: Address): string {
    return join(this.#layout.sources, `${addressKey(address)}.json`);
  }

  #refusedPath(address: Address): string {
    return join(this.#layout.sources, `${addressKey(address)}.refused.json`);
  }
}
