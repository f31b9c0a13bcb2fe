import { spawn } from "node:child_process";
import { gunzipSync } from "node:zlib";

import { ImageError } from "../errors.js";
import { requireTool } from "../host/tools.js";
import { isLz4Legacy, unpackLz4Legacy } from "./lz4.js";

/* By their first bytes. Node 20 has neither zstd nor xz, so these two are left to their own programs. */
const PROGRAMS: readonly (readonly [magic: string, program: string])[] = [
  ["28b52ffd", "zstd"],
  ["fd377a585a00", "xz"],
  ["5d0000", "xz"],
  ["425a68", "bzip2"],
];

/** Unpacks gzip, LZ4 (legacy), zstd, xz, lzma or bzip2 data, whichever it is; anything else comes back as it is. */
export async function unpack(data: Buffer, what: string, limit: number): Promise<Buffer> {
  try {
    if (data.readUInt16BE() === 0x1f8b) return gunzipSync(data, { maxOutputLength: limit });
    if (isLz4Legacy(data)) return unpackLz4Legacy(data, limit);
  } catch (error) {
    throw new ImageError("IMAGE_INVALID", `${what} is damaged: it can't be unpacked.`, { cause: error });
  }
  const hex = data.toString("hex", 0, 6);
  const program = PROGRAMS.find(([magic]) => hex.startsWith(magic))?.[1];
  return program === undefined ? data : await filter(program, data, what, limit);
}

async function filter(program: string, data: Buffer, what: string, limit: number): Promise<Buffer> {
  const child = spawn(requireTool(program), ["-dc"], { stdio: ["pipe", "pipe", "pipe"] });
  const chunks: Buffer[] = [];
  const errors: Buffer[] = [];
  let total = 0;
  child.stdout.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    total += chunk.length;
    if (total > limit) child.kill("SIGKILL");
  });
  child.stderr.on("data", (chunk: Buffer) => errors.push(chunk));
  child.stdin.on("error", () => undefined); // it ended early: its exit status says why
  child.stdin.end(data);
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  // The unpacked size, which the kernel's build appends, makes the program fail after it has given all. A cut makes it fail as well.
  const whole = status === 0 || (data.length >= 4 && data.readUInt32LE(data.length - 4) === total);
  if (total > limit || !whole) {
    const reason =
      total > limit ? `it unpacks to more than ${limit} bytes` : Buffer.concat(errors).toString("utf8").trim();
    throw new ImageError("IMAGE_INVALID", `${what} is damaged: ${reason}.`);
  }
  return Buffer.concat(chunks);
}
