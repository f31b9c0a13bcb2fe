import { createHash } from "node:crypto";
import { closeSync, createReadStream, fsyncSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { mkdir, readdir, rm, stat as fileStat } from "node:fs/promises";
import { get as httpGet, type IncomingMessage } from "node:http";
import { get as httpsGet } from "node:https";
import { basename, dirname, join } from "node:path";

import { checksumMismatch, downloadFailed, FetchFailure, storageError, type Attempt } from "./failure.js";
import type { TransferRequest, TransferResult } from "./request.js";

/** Brings the bytes of one address (or of a mirror of it) to this machine, verified. */
export async function transfer(request: TransferRequest): Promise<TransferResult> {
  const earlier: Attempt[] = [];
  for (const [index, url] of request.urls.entries()) {
    try {
      return await transferFrom(url, request);
    } catch (error) {
      request.signal?.throwIfAborted();
      const storage = storageError(error, request.partial);
      if (storage !== null && !(error instanceof FetchFailure)) throw storage;
      if (index === request.urls.length - 1) {
        throw error instanceof Mismatch
          ? checksumMismatch(url, request.digest ?? "", error.actual, earlier)
          : downloadFailed(url, error, earlier);
      }
      earlier.push({ url, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  throw new TypeError("transfer needs at least one URL");
}

/** Removes what a transfer left at `partial`, its side files included. */
export async function discardPartial(partial: string): Promise<void> {
  const folder = dirname(partial);
  const prefix = `${basename(partial)}.`;
  const names = await readdir(folder).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  });
  await rm(partial, { force: true });
  for (const name of names) if (name.startsWith(prefix)) await rm(join(folder, name), { force: true });
}

class Mismatch extends Error {
  constructor(readonly actual: string) {
    super("SHA-256 mismatch");
  }
}

async function transferFrom(url: string, request: TransferRequest): Promise<TransferResult> {
  request.signal?.throwIfAborted();
  const body = await openBody(new URL(url), request.signal);
  await mkdir(dirname(request.partial), { recursive: true });
  const fd = openSync(request.partial, "w", 0o644);
  const hash = createHash("sha256");
  let bytes = 0;
  try {
    await new Promise<void>((resolve, reject) => {
      body.stream.on("data", (chunk: Buffer) => {
        try {
          hash.update(chunk);
          for (let at = 0; at < chunk.length;) at += writeSync(fd, chunk, at, chunk.length - at, bytes + at);
          bytes += chunk.length;
        } catch (error) {
          body.stream.destroy();
          reject(error instanceof Error ? error : new Error(String(error)));
        }
        try {
          request.onProgress?.({ phase: "download", bytes, total: body.total });
        } catch {
          // a callback of the caller must not break the transfer
        }
      });
      body.stream.on("end", resolve);
      body.stream.on("error", (error: Error) =>
        reject(new FetchFailure(error.message, { transient: true, cause: error })),
      );
    });
    if (body.total !== null && bytes !== body.total) {
      throw new FetchFailure(`the connection ended after ${bytes} of ${body.total} bytes`, { transient: true });
    }
    ftruncateSync(fd, bytes);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  const digest = hash.digest("hex");
  if (request.digest !== null && digest !== request.digest.toLowerCase()) {
    await discardPartial(request.partial);
    throw new Mismatch(digest);
  }
  const extents = bytes === 0 ? [] : [[0, bytes] as const];
  return { path: request.partial, digest, contentDigest: digest, size: bytes, extents, url, fetchedBytes: bytes };
}

async function openBody(
  url: URL,
  signal: AbortSignal | undefined,
): Promise<{ stream: NodeJS.ReadableStream & { destroy(): void }; total: number | null }> {
  if (url.protocol === "file:") {
    const stat = await fileStat(url).catch((error: unknown) => {
      throw new FetchFailure(error instanceof Error ? error.message : String(error), {
        transient: false,
        cause: error,
      });
    });
    if (!stat.isFile()) throw new FetchFailure("it is not a regular file", { transient: false });
    return { stream: createReadStream(url, { highWaterMark: 1 << 20, signal }), total: stat.size };
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new FetchFailure(`addresses of the kind '${url.protocol}' are not supported`, { transient: false });
  }
  let at = url;
  for (let hop = 0; hop <= 10; hop++) {
    const response = await get(at, signal);
    const status = response.statusCode ?? 0;
    if (status >= 300 && status < 400 && response.headers.location !== undefined) {
      response.resume();
      at = new URL(response.headers.location, at);
      continue;
    }
    if (status !== 200) {
      response.destroy();
      throw new FetchFailure(`HTTP ${status} ${response.statusMessage ?? ""}`.trim(), {
        transient: status >= 500,
        status,
      });
    }
    const length = response.headers["content-length"];
    return { stream: response, total: length === undefined ? null : Number(length) };
  }
  throw new FetchFailure("more than 10 redirects", { transient: false });
}

function get(url: URL, signal: AbortSignal | undefined): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = (url.protocol === "https:" ? httpsGet : httpGet)(url, {
      headers: { "accept-encoding": "identity" },
      ...(signal ? { signal } : {}),
    });
    request.on("response", resolve);
    request.on("error", (error: Error) => reject(new FetchFailure(error.message, { transient: true, cause: error })));
  });
}
