/**
 * The part of the tar format that image archives use: ustar headers (POSIX.1-1988), pax records (POSIX.1-2001) and GNU's
 * sparse files in their version 1.0 (GNU tar manual, "PAX Format, Version 1.0"), so that any current tar can read an archive.
 */
import type { Extents } from "./record.js";

export const TAR_BLOCK = 512;

export interface TarHeader {
  readonly name: string;
  /** Bytes that follow the header, without padding. */
  readonly size: number;
  /** "0" a file, "x" pax records for the next member; anything else is not taken. */
  readonly type: string;
  readonly linkName: string;
}

/** The largest number that an octal field of eleven digits holds. */
const MAX_OCTAL = 0o77777777777;

export function formatHeader({ name, size, type }: Pick<TarHeader, "name" | "size" | "type">): Buffer {
  const header = Buffer.alloc(TAR_BLOCK);
  header.write(name, 0, 100, "utf8");
  header.write("0000644\0", 100);
  header.write("0000000\0", 108);
  header.write("0000000\0", 116);
  if (size <= MAX_OCTAL) {
    header.write(`${size.toString(8).padStart(11, "0")}\0`, 124);
  } else {
    // GNU's and star's base-256 form.
    header.writeUInt8(0x80, 124);
    header.writeBigUInt64BE(BigInt(size), 128);
  }
  header.write("00000000000\0", 136);
  header.write(type, 156);
  header.write("ustar\x0000", 257, "latin1");
  header.write(`${checksum(header).toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}

/** A header, null for the block of zeros that ends an archive, or a word on what is wrong. */
export function parseHeader(block: Buffer): TarHeader | null | string {
  if (block.every((byte) => byte === 0)) return null;
  const stated = octal(block.subarray(148, 156));
  if (stated !== checksum(block)) return "a header's checksum is wrong";
  if (block.toString("latin1", 257, 262) !== "ustar") return "a header is not of the ustar format";
  const size = sizeField(block.subarray(124, 136));
  if (size === null) return "a header's size is not a number";
  const prefix = text(block.subarray(345, 500));
  const name = text(block.subarray(0, 100));
  const type = String.fromCharCode(block[156] ?? 0);
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    size,
    type: type === "\0" ? "0" : type,
    linkName: text(block.subarray(157, 257)),
  };
}

function checksum(header: Buffer): number {
  // The checksum's own field counts as spaces.
  return header.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}

function text(field: Buffer): string {
  const end = field.indexOf(0);
  return field.toString("utf8", 0, end === -1 ? field.length : end);
}

function octal(field: Buffer): number | null {
  const digits = text(field).trim();
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : null;
}

function sizeField(field: Buffer): number | null {
  if (field[0] !== 0x80) return octal(field);
  const size = Number(field.readBigUInt64BE(4));
  return Number.isSafeInteger(size) && field.readUInt32BE(0) === 0x80000000 ? size : null;
}

export function padding(size: number): number {
  return (TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK;
}

export function formatPax(records: Readonly<Record<string, string>>): Buffer {
  return Buffer.concat(Object.entries(records).map(([key, value]) => paxRecord(key, value)));
}

/** `"<length> <key>=<value>\n"`, the length counting its own digits. */
function paxRecord(key: string, value: string): Buffer {
  const rest = ` ${key}=${value}\n`;
  const bytes = Buffer.byteLength(rest);
  let length = bytes + String(bytes).length;
  if (String(length).length !== String(bytes).length) length = bytes + String(length).length;
  return Buffer.from(`${length}${rest}`);
}

/** The records, or null if they are not well-formed. */
export function parsePax(data: Buffer): ReadonlyMap<string, string> | null {
  const records = new Map<string, string>();
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(0x20, at);
    const digits = data.toString("latin1", at, space);
    const length = /^[1-9][0-9]{0,6}$/.test(digits) ? Number(digits) : 0;
    const equals = data.indexOf(0x3d, space);
    const end = at + length;
    if (space === -1 || length === 0 || end > data.length || equals === -1 || equals >= end || data[end - 1] !== 0x0a)
      return null;
    records.set(data.toString("utf8", space + 1, equals), data.toString("utf8", equals + 1, end - 1));
    at = end;
  }
  return records;
}

/** The map that precedes the data of a sparse file: a count, then offset and length of each run, one number a line, padded. */
export function formatSparseMap(extents: Extents, size: number): Buffer {
  const runs = extents.map(([start, end]) => [start, end - start] as const);
  // A file that ends in a hole says its size by an empty run.
  if ((extents.at(-1)?.[1] ?? 0) < size) runs.push([size, 0]);
  const lines = Buffer.from(`${[runs.length, ...runs.flat()].join("\n")}\n`);
  return Buffer.concat([lines, Buffer.alloc(padding(lines.length))]);
}

/** Takes the map one line after the other; what it gives at the end are the runs, or null if they can't be. */
export function parseSparseRuns(numbers: readonly number[], size: number): Extents | null {
  const extents: [number, number][] = [];
  let previous = 0;
  for (let index = 0; index < numbers.length; index += 2) {
    const start = numbers[index] ?? -1;
    const length = numbers[index + 1] ?? -1;
    if (start < previous || length < 0 || start + length > size) return null;
    previous = start + length;
    if (length > 0) extents.push([start, previous]);
  }
  return extents;
}
