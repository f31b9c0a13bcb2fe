import { ValidationError } from "../errors.js";
import { violation } from "./frames.js";
import { PayloadReader, type PayloadWriter } from "./payload.js";
import type { FileKind, GuestDirent, GuestStat, WriteOptions } from "./types.js";

/* How paths, times, flags and what the guest says of files are written in frames. */

const WriteFlag = { append: 1, exclusive: 2, atomic: 4, sync: 8 } as const;
const TO_THE_END = 0xffff_ffff_ffff_ffffn;

export function checkedPath(path: string): string {
  if (path.startsWith("/")) return path;
  throw new ValidationError(`path must be absolute in the guest, not ${JSON.stringify(path)}.`);
}

export function writeFlags(options: WriteOptions): number {
  const flag = options.flag ?? "replace";
  if (options.atomic === true && flag !== "replace") {
    throw new ValidationError(`atomic goes only with the flag "replace", not ${JSON.stringify(flag)}.`);
  }
  const how = flag === "replace" ? 0 : WriteFlag[flag];
  return how | (options.atomic === true ? WriteFlag.atomic : 0) | (options.sync === true ? WriteFlag.sync : 0);
}

/** Permission bits. */
export function permissions(mode: number): number {
  if (Number.isInteger(mode) && mode >= 0 && mode <= 0o7777) return mode;
  throw new ValidationError(`mode must be between 0 and 0o7777, not ${String(mode)}.`);
}

export function accountId(value: number, what: string): number {
  if (Number.isInteger(value) && value >= 0 && value < 0xffff_ffff) return value;
  throw new ValidationError(`${what} must be between 0 and 4294967294, not ${String(value)}.`);
}

export function offset(value: number, what: string): bigint {
  if (Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  throw new ValidationError(`${what} must be a whole number from 0, not ${String(value)}.`);
}

export function lengthOrEnd(value: number | undefined): bigint {
  return value === undefined ? TO_THE_END : offset(value, "length");
}

export function putTime(payload: PayloadWriter, milliseconds: number, what: string): PayloadWriter {
  if (!Number.isFinite(milliseconds))
    throw new ValidationError(`${what} must be a number, not ${String(milliseconds)}.`);
  const seconds = Math.floor(milliseconds / 1000);
  const nanoseconds = Math.min(999_999_999, Math.round((milliseconds - seconds * 1000) * 1e6));
  return payload.u64(BigInt(seconds)).u32(nanoseconds);
}

function readTime(reader: PayloadReader): number {
  const seconds = Number(BigInt.asIntN(64, reader.u64()));
  return seconds * 1000 + reader.u32() / 1e6;
}

/** By the file type in `st_mode`, shifted right by 12: the same numbers as `d_type` in a folder's entries. */
const KINDS: Readonly<Record<number, FileKind>> = {
  1: "fifo",
  2: "char",
  4: "directory",
  6: "block",
  8: "file",
  10: "symlink",
  12: "socket",
};

export function readStat(reader: PayloadReader): GuestStat {
  const mode = reader.u32();
  return Object.freeze({
    kind: KINDS[(mode >> 12) & 15] ?? "unknown",
    mode: mode & 0o7777,
    uid: reader.u32(),
    gid: reader.u32(),
    size: Number(reader.u64()),
    nlink: Number(reader.u64()),
    ino: Number(reader.u64()),
    dev: Number(reader.u64()),
    atimeMs: readTime(reader),
    mtimeMs: readTime(reader),
    ctimeMs: readTime(reader),
  });
}

const ENTRY_OVERHEAD = 6; // kind, length of the name, the name's end
/** Linux has at most 255 bytes; some file systems that come from elsewhere a few more. */
const LONGEST_NAME = 1024;

/** Takes the whole entries off a piece of a folder's list; gives the rest, which waits for the next piece. */
export function takeEntries(bytes: Buffer, entries: GuestDirent[]): Buffer {
  let at = 0;
  while (bytes.length - at >= ENTRY_OVERHEAD) {
    const length = bytes.readUInt32LE(at + 1);
    // An entry for no bytes of a name would let a guest turn a little data into a lot of memory.
    if (length === 0) throw violation("a file without a name");
    if (length > LONGEST_NAME) throw violation("a file name that is too long");
    if (bytes.length - at < ENTRY_OVERHEAD + length) break;
    const reader = new PayloadReader(bytes.subarray(at, at + ENTRY_OVERHEAD + length));
    const kind = KINDS[reader.u8()] ?? "unknown";
    entries.push({ name: reader.string(), kind });
    at += ENTRY_OVERHEAD + length;
  }
  return at === bytes.length ? Buffer.alloc(0) : Buffer.from(bytes.subarray(at));
}
