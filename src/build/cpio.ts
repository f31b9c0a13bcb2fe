import { ValidationError } from "../errors.js";

/** One member of an initramfs. Paths are relative to its root; a leading "/" or "./" is dropped. */
export interface CpioEntry {
  readonly path: string;
  readonly type: "file" | "directory" | "symlink" | "character" | "block" | "fifo";
  /** Permission bits, such as 0o755. */
  readonly mode: number;
  /** A file's bytes, or a symbolic link's target. */
  readonly data?: Uint8Array;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds since 1970; default 0, so that the same entries give the same bytes. */
  readonly mtime?: number;
  /** The numbers of a device node. */
  readonly device?: { readonly major: number; readonly minor: number };
}

const TYPE_BITS = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  character: 0o020000,
  block: 0o060000,
  fifo: 0o010000,
} as const;

const TRAILER = "TRAILER!!!";

/**
 * Writes a "newc" cpio archive, the format of an initramfs (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
 * The result depends on the entries and their order alone and is padded to 512 bytes, so further archives can follow it.
 * The kernel makes no parent folders: name each before what is in it.
 */
export function writeCpio(entries: Iterable<CpioEntry>): Buffer {
  const parts: Buffer[] = [];
  let length = 0;
  let inode = 1;
  const push = (part: Buffer): void => {
    parts.push(part);
    length += part.length;
    const rest = length % 4;
    if (rest !== 0) {
      parts.push(Buffer.alloc(4 - rest));
      length += 4 - rest;
    }
  };
  for (const entry of entries) {
    const name = memberName(entry.path);
    const data = entry.data ?? new Uint8Array(0);
    push(header(entry, inode++, name, data.length));
    if (data.length > 0) push(Buffer.from(data.buffer, data.byteOffset, data.length));
  }
  push(header({ path: TRAILER, type: "fifo", mode: 0 }, 0, TRAILER, 0, 0));
  const rest = length % 512;
  if (rest !== 0) parts.push(Buffer.alloc(512 - rest));
  return Buffer.concat(parts);
}

function memberName(path: string): string {
  const name = path.replace(/^(\.?\/+)+/, "").replace(/\/+$/, "");
  if (name === "" || name.includes("\0") || name === TRAILER || name.split("/").includes("..")) {
    throw new ValidationError(`Bad path in an initramfs: '${path}'. It must name something below the root.`);
  }
  return name;
}

function header(
  entry: CpioEntry,
  inode: number,
  name: string,
  size: number,
  typeBits: number = TYPE_BITS[entry.type],
): Buffer {
  const encoded = Buffer.from(`${name}\0`, "utf8");
  const fields = [
    inode,
    typeBits | (entry.mode & 0o7777),
    entry.uid ?? 0,
    entry.gid ?? 0,
    entry.type === "directory" ? 2 : 1,
    entry.mtime ?? 0,
    size,
    0, // the device that holds the file: told apart by the kernel only for hard links, which are not written here
    0,
    entry.device?.major ?? 0,
    entry.device?.minor ?? 0,
    encoded.length,
    0, // checksum: only of the "070702" variant
  ];
  const numbers = fields.map((field) => hexField(field, entry.path)).join("");
  return Buffer.concat([Buffer.from(`070701${numbers}`, "latin1"), encoded]);
}

function hexField(value: number, path: string): string {
  if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) {
    throw new ValidationError(
      `A field of '${path}' does not fit an initramfs: ${value}. It must be from 0 to 4294967295.`,
    );
  }
  return value.toString(16).toUpperCase().padStart(8, "0");
}
