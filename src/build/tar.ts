import { ImageError } from "../errors.js";
import { ByteReader } from "./byte-reader.js";

const BLOCK = 512;
/** Extended headers and long names are kept in memory, so those of one entry, and those for all, are bounded. */
const MAX_EXTENSION = 1024 * 1024;

export type TarType = "file" | "directory" | "symlink" | "link" | "character" | "block" | "fifo";

export interface TarEntry {
  /** As it stands in the archive: bytes, and not checked for "..", a leading "/" or anything else. */
  readonly path: Buffer;
  readonly type: TarType;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  readonly mtimeNs: number;
  readonly size: number;
  /** Of a symbolic or hard link. */
  readonly target: Buffer;
  readonly device: { readonly major: number; readonly minor: number };
  readonly xattrs: ReadonlyMap<string, Buffer>;
  /** The file's bytes. What is not read of them is skipped when the next entry is asked for. */
  readonly content: AsyncIterable<Buffer>;
}

const TYPES: Readonly<Record<string, TarType>> = {
  "\0": "file",
  "0": "file",
  "7": "file", // "contiguous": a plain file to everyone
  "1": "link",
  "2": "symlink",
  "3": "character",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};

/**
 * Reads a tar archive as it streams: ustar with the extensions of GNU tar (long names, binary numbers) and of PAX (paths, sizes,
 * times, owners, extended attributes), without sparse files.
 *
 * Errors: ImageError IMAGE_INVALID for what is no tar archive, is cut short, or uses what is not read here.
 */
export async function* readTar(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry, void, undefined> {
  const reader = new ByteReader(source);
  try {
    yield* readEntries(reader);
    await reader.drain(); // padding: a program that writes the archive should not see its pipe break
  } finally {
    await reader.close();
  }
}

async function* readEntries(reader: ByteReader): AsyncGenerator<TarEntry, void, undefined> {
  const globals = new Map<string, Buffer>();
  let extension = new Map<string, Buffer>();
  let [globalBytes, ownBytes] = [0, 0];
  for (;;) {
    const header = await reader.take(BLOCK);
    if (header === null) throw broken("ends without an end mark");
    if (header.every((byte) => byte === 0)) return; // the first of two blocks of zeros
    checkHeader(header);
    const kind = String.fromCharCode(header[156] as number);
    const size = number(header, 124, 12, "size");
    if (kind === "x" || kind === "g" || kind === "L" || kind === "K") {
      if (kind === "g") globalBytes += size;
      else ownBytes += size;
      if (Math.max(globalBytes, ownBytes) > MAX_EXTENSION) throw broken("has extended headers of over a mebibyte");
      const data = await readExtension(reader, size);
      if (kind === "g") parsePax(data, globals);
      else if (kind === "x") parsePax(data, extension);
      else extension.set(kind === "L" ? "path" : "linkpath", untilNul(data));
      continue;
    }
    const entry = makeEntry(header, kind, size, new Map([...globals, ...extension]), reader);
    extension = new Map();
    ownBytes = 0;
    const end = reader.position + entry.size;
    yield entry;
    await skip(reader, end - reader.position + padding(entry.size));
  }
}

function makeEntry(
  header: Buffer,
  kind: string,
  size: number,
  pax: ReadonlyMap<string, Buffer>,
  reader: ByteReader,
): TarEntry {
  const type = TYPES[kind];
  if (type === undefined || [...pax.keys()].some((key) => key.startsWith("GNU.sparse."))) {
    throw broken(`has an entry of a kind that is not read here: '${kind === "S" ? "sparse file" : kind}'`);
  }
  const text = (key: string): string | undefined => pax.get(key)?.toString("utf8");
  const whole = (key: string, otherwise: number): number => {
    const value = text(key);
    if (value === undefined) return otherwise;
    if (!/^\d{1,15}$/.test(value)) throw broken(`has a bad ${key}: '${value.slice(0, 40)}'`);
    return Number(value);
  };
  const time = paxTime(text("mtime")) ?? { seconds: number(header, 136, 12, "time"), nanoseconds: 0 };
  const realSize = whole("size", size);
  const xattrs = new Map<string, Buffer>();
  for (const [key, value] of pax) if (key.startsWith("SCHILY.xattr.")) xattrs.set(key.slice(13), value);
  let path = pax.get("path") ?? headerPath(header);
  // Old archives have no type for directories, only a name that ends with a slash.
  const isDirectory = type === "directory" || (type === "file" && path.at(-1) === 0x2f);
  while (path.length > 1 && path.at(-1) === 0x2f) path = path.subarray(0, -1);
  const dataSize = type === "file" && !isDirectory ? realSize : 0;
  return {
    path,
    type: isDirectory ? "directory" : type,
    mode: number(header, 100, 8, "mode") & 0o7777,
    uid: whole("uid", number(header, 108, 8, "uid")),
    gid: whole("gid", number(header, 116, 8, "gid")),
    mtime: time.seconds,
    mtimeNs: time.nanoseconds,
    size: dataSize,
    target: pax.get("linkpath") ?? untilNul(header.subarray(157, 257)),
    device: { major: number(header, 329, 8, "major"), minor: number(header, 337, 8, "minor") },
    xattrs,
    content: content(reader, dataSize),
  };
}

async function* content(reader: ByteReader, size: number): AsyncGenerator<Buffer, void, undefined> {
  const end = reader.position + size;
  while (reader.position < end) {
    const chunk = await reader.some(end - reader.position);
    if (chunk === null) throw broken("ends in the middle of a file");
    yield chunk;
  }
}

async function skip(reader: ByteReader, count: number): Promise<void> {
  const end = reader.position + count;
  while (reader.position < end) {
    if ((await reader.some(end - reader.position)) === null) throw broken("ends in the middle of a file");
  }
}

function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}

function checkHeader(header: Buffer): void {
  let sum = 8 * 0x20; // the checksum's own field counts as spaces
  for (let at = 0; at < BLOCK; at++) if (at < 148 || at >= 156) sum += header[at] as number;
  if (number(header, 148, 8, "checksum") !== sum) throw broken("has a damaged header, or is no tar archive at all");
}

function headerPath(header: Buffer): Buffer {
  const name = untilNul(header.subarray(0, 100));
  // Only POSIX headers have a prefix; GNU's own ("ustar  ") keep other things there.
  if (header.toString("latin1", 257, 263) !== "ustar\0") return name;
  const prefix = untilNul(header.subarray(345, 500));
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from("/"), name]);
}

/** Octal digits, or a big-endian binary number where the first bit is set. */
function number(header: Buffer, at: number, length: number, field: string): number {
  const first = header[at] as number;
  if (first & 0x80) {
    const negative = first === 0xff;
    let value = BigInt(negative ? 0 : first & 0x7f);
    for (let index = at + 1; index < at + length; index++) value = (value << 8n) | BigInt(header[index] as number);
    if (negative) value -= 1n << BigInt(8 * (length - 1));
    // Only a time may be before 1970.
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < (field === "time" ? -(2n ** 40n) : 0n))
      throw broken(`has a bad ${field}`);
    return Number(value);
  }
  const text = untilNul(header.subarray(at, at + length))
    .toString("latin1")
    .trim();
  if (text === "") return 0;
  if (!/^[0-7]+$/.test(text)) throw broken(`has a bad ${field}`);
  return parseInt(text, 8);
}

async function readExtension(reader: ByteReader, size: number): Promise<Buffer> {
  const data = await reader.take(size);
  if (data === null) throw broken("ends in the middle of a header");
  await skip(reader, padding(size));
  return data;
}

/** Records of the form "LENGTH KEY=VALUE\n", the length counting the whole record. */
function parsePax(data: Buffer, into: Map<string, Buffer>): void {
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at);
    const digits = space === -1 ? "" : data.toString("latin1", at, space);
    const end = at + Number(digits);
    const equals = data.indexOf(0x3d, space);
    const sound =
      /^\d{1,7}$/.test(digits) && equals > space && equals < end && end <= data.length && data[end - 1] === 0x0a;
    if (!sound) throw broken("has a damaged extended header");
    const key = data.toString("utf8", space + 1, equals);
    const value = data.subarray(equals + 1, end - 1);
    if (value.length === 0) into.delete(key);
    else into.set(key, Buffer.from(value));
    at = end;
  }
}

function paxTime(value: string | undefined): { seconds: number; nanoseconds: number } | undefined {
  if (value === undefined) return undefined;
  const parts = /^(-?)(\d{1,12})(?:\.(\d*))?$/.exec(value);
  if (parts === null) throw broken(`has a bad time: '${value.slice(0, 40)}'`);
  const [, sign, whole, fraction = ""] = parts;
  const nanoseconds = Number(fraction.slice(0, 9).padEnd(9, "0"));
  const seconds = Number(whole);
  if (sign === "") return { seconds, nanoseconds };
  return nanoseconds === 0
    ? { seconds: -seconds, nanoseconds }
    : { seconds: -seconds - 1, nanoseconds: 1e9 - nanoseconds };
}

function untilNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  // A copy: the reader's buffer is used again.
  return Buffer.from(end === -1 ? bytes : bytes.subarray(0, end));
}

function broken(reason: string): ImageError {
  return new ImageError("IMAGE_INVALID", `The tar archive ${reason}.`);
}
