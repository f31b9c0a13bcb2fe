import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

import type { ImageSourceFields } from "../../src/images/index.js";

export function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** A folder of its own for one test, removed after it. */
export function scratch(t: TestContext, parent = tmpdir()): string {
  const folder = mkdtempSync(join(parent, "smolvm-images-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The files of one image, made up at random, with a hole in the root filesystem. */
export interface Content {
  readonly kernel: Buffer;
  readonly rootfs: Buffer;
}

export function content(kernelBytes = 40_000, rootfsBytes = 90_000): Content {
  const hole = Buffer.alloc(64 * 1024);
  return {
    kernel: randomBytes(kernelBytes),
    rootfs: Buffer.concat([randomBytes(rootfsBytes), hole, randomBytes(5_000)]),
  };
}

/** Changes one byte in place, as a failing disk or a program that ignores the file's mode would. */
export function flipByte(path: string, position: number, mask = 0xff): void {
  chmodSync(path, 0o644);
  const fd = openSync(path, "r+");
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, position);
  writeSync(fd, Buffer.from([(byte[0] ?? 0) ^ mask]), 0, 1, position);
  closeSync(fd);
}

/** A web server for image files. It serves ranges, notes every request, and can be slow. */
export class Origin {
  readonly files = new Map<string, Buffer>();
  readonly requests: string[] = [];
  readonly #starts: string[] = [];
  /** Body bytes handed to the network so far. */
  sentBytes = 0;
  /** "name:password" that every request must come with, as RFC 7617 has it; null lets everybody in. */
  credentials: string | null = null;
  /** Time before the answer, and between pieces of 16 KiB. */
  delayMs = 0;
  pieceDelayMs = 0;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  static async start(t: TestContext): Promise<Origin> {
    const origin = new Origin();
    origin.#server.listen(0, "127.0.0.1");
    await once(origin.#server, "listening");
    t.after(() => origin.close());
    return origin;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  url(path: string): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${path}`;
  }

  /** Serves the files below a folder and gives the source that names them, with or without their digests. */
  publish(
    name: string,
    files: Content,
    options: { readonly pinned: boolean; readonly folder?: string },
  ): ImageSourceFields {
    const folder = options.folder ?? name;
    this.files.set(`/${folder}/vmlinux.bin`, files.kernel);
    this.files.set(`/${folder}/rootfs.ext4`, files.rootfs);
    return {
      name,
      kernelUrl: this.url(`/${folder}/vmlinux.bin`),
      rootfsUrl: this.url(`/${folder}/rootfs.ext4`),
      ...(options.pinned && { kernelSha256: sha256(files.kernel), rootfsSha256: sha256(files.rootfs) }),
    };
  }

  /** How often a file was asked for. */
  asked(path: string): number {
    return this.requests.filter((requested) => requested === path).length;
  }

  /** How often a file was asked for from its first byte. */
  fromStart(path: string): number {
    return this.#starts.filter((requested) => requested === path).length;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? "";
    this.requests.push(path);
    const bytes = this.files.get(path);
    const welcome =
      this.credentials === null ||
      request.headers.authorization === `Basic ${Buffer.from(this.credentials).toString("base64")}`;
    if (!welcome) {
      response.writeHead(401).end();
      return;
    }
    if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    if (bytes === undefined) {
      response.writeHead(404).end();
      return;
    }
    const etag = `"${sha256(bytes)}"`;
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const usable = range !== null && (request.headers["if-range"] ?? etag) === etag;
    const start = usable ? Number(range[1]) : 0;
    if (start === 0) this.#starts.push(path);
    const end = usable && range[2] !== "" ? Math.min(Number(range[2]) + 1, bytes.length) : bytes.length;
    const headers = { "content-length": end - start, etag, "accept-ranges": "bytes" };
    if (usable) response.writeHead(206, { ...headers, "content-range": `bytes ${start}-${end - 1}/${bytes.length}` });
    else response.writeHead(200, headers);
    await this.#send(response, bytes.subarray(start, end));
  }

  async #send(response: ServerResponse, body: Buffer): Promise<void> {
    const piece = this.pieceDelayMs > 0 ? 16 * 1024 : 256 * 1024;
    for (let at = 0; at < body.length && !response.destroyed; at += piece) {
      const part = body.subarray(at, at + piece);
      if (!response.write(part)) await writable(response);
      this.sentBytes += part.length;
      if (this.pieceDelayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.pieceDelayMs));
    }
    response.end();
  }
}

/** Until the response takes more, or is gone. */
async function writable(response: ServerResponse): Promise<void> {
  const done = new AbortController();
  const { signal } = done;
  await Promise.race([once(response, "drain", { signal }), once(response, "close", { signal })]).catch(() => undefined);
  done.abort();
}
