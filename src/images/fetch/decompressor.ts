import { spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import * as zlib from "node:zlib";

import { requireTool } from "../../host/tools.js";

export type Compression = "gzip" | "xz" | "zstd";

/** As many bytes as `compressionOf` looks at. */
export const MAGIC_LENGTH = 6;

/** What the first bytes say: RFC 1952 section 2.3.1 with deflate as the method, the .xz format 1.2 section 2.1.1.1, RFC 8878 section 3.1.1. */
export function compressionOf(head: Buffer): Compression | null {
  const magic = head.toString("hex", 0, MAGIC_LENGTH);
  if (magic.startsWith("1f8b08")) return "gzip";
  if (magic === "fd377a585a00") return "xz";
  if (magic.startsWith("28b52ffd")) return "zstd";
  return null;
}

/** What the address says. */
export function claimedCompression(url: string): Compression | null {
  const path = new URL(url).pathname.toLowerCase();
  if (path.endsWith(".gz") || path.endsWith(".tgz")) return "gzip";
  if (path.endsWith(".xz")) return "xz";
  if (path.endsWith(".zst")) return "zstd";
  return null;
}

export interface Decompressor {
  readonly input: Writable;
  readonly output: Readable;
  /** Rejects with why the data can't be unpacked. */
  readonly ended: Promise<void>;
  /** How many bytes of the input belonged to the compressed data, or null where the program itself refuses more. */
  consumed(): number | null;
  stop(): void;
}

/** The default of 16 KiB makes the unpacking half as quick. */
const CHUNK = 1024 * 1024;

/** Starts to unpack. A HostError if the program that it takes is missing. */
export function startDecompressor(compression: Compression): Decompressor {
  if (compression === "gzip") return builtIn(zlib.createGunzip({ chunkSize: CHUNK }));
  if (compression === "zstd" && createZstdDecompress !== undefined) {
    return builtIn(createZstdDecompress({ chunkSize: CHUNK }));
  }
  return program(compression);
}

/** Node has it from 22.15 on. */
const createZstdDecompress = (zlib as unknown as Record<string, unknown>)["createZstdDecompress"] as
  ((options: { chunkSize: number }) => zlib.Gunzip) | undefined;

function builtIn(stream: zlib.Gunzip): Decompressor {
  return {
    input: stream,
    output: stream,
    ended: new Promise((resolve, reject) => {
      stream.once("end", resolve);
      stream.once("error", reject);
      stream.once("close", resolve);
    }),
    consumed: () => stream.bytesWritten,
    stop: () => void stream.destroy(),
  };
}

function program(name: "xz" | "zstd"): Decompressor {
  const child = spawn(requireTool(name), ["-dc"], { stdio: ["pipe", "pipe", "pipe"] });
  let complaint = "";
  child.stderr.on("data", (text: Buffer) => (complaint = (complaint + text.toString()).slice(-1000)));
  child.stdin.on("error", () => undefined); // it ended before it read everything: its exit status tells why
  return {
    input: child.stdin,
    output: child.stdout,
    ended: new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (status, signal) => {
        if (status === 0) resolve();
        else {
          const [reason = ""] = complaint.trim().split("\n");
          reject(new Error(reason === "" ? `${name} ended with ${signal ?? status ?? "no status"}` : reason));
        }
      });
    }),
    consumed: () => null,
    stop: () => void child.kill("SIGKILL"),
  };
}
