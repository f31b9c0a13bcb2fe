import { crc32c } from "./crc32c.js";
import { BLOCK } from "./format.js";
import { XATTR_ROOM } from "./format.js";
import { invalid, type Name } from "./path.js";

const MAGIC = 0xea020000;
const ENTRY = 16;
const BLOCK_HEADER = 32;

/* The longest match wins: the two access lists have numbers of their own. Source: fs/ext4/xattr.h. */
const PREFIXES: readonly (readonly [prefix: string, index: number])[] = [
  ["user.", 1],
  ["trusted.", 4],
  ["security.", 6],
];
const ACCESS_LISTS: Readonly<Record<string, number>> = {
  "system.posix_acl_access": 2,
  "system.posix_acl_default": 3,
};

interface Xattr {
  readonly index: number;
  readonly name: Buffer;
  readonly value: Buffer;
}

export interface EncodedXattrs {
  /** For the room behind the inode's fields, or null where they don't fit there or there are none. */
  readonly inInode: Buffer | null;
  /** For a block of their own, or null. Its checksum is still to be set by `sealXattrBlock`. */
  readonly inBlock: Buffer | null;
}

export const NO_XATTRS: EncodedXattrs = { inInode: null, inBlock: null };

/** Encodes a file's extended attributes: in the inode if they fit the room there, else in one block. */
export function encodeXattrs(path: Name, xattrs: ReadonlyMap<string, Uint8Array> | undefined): EncodedXattrs {
  if (xattrs === undefined || xattrs.size === 0) return NO_XATTRS;
  const list = [...xattrs].map(([name, value]) => parse(path, name, value)).sort(order);
  const inInode = Buffer.alloc(XATTR_ROOM);
  inInode.writeUInt32LE(MAGIC, 0);
  if (pack(inInode, 4, 4, list, () => 0)) return { inInode, inBlock: null };
  const inBlock = Buffer.alloc(BLOCK);
  inBlock.writeUInt32LE(MAGIC, 0);
  inBlock.writeUInt32LE(1, 4); // inodes that use this block
  inBlock.writeUInt32LE(1, 8); // blocks
  if (!pack(inBlock, BLOCK_HEADER, 0, list, entryHash)) {
    throw invalid(path, `has extended attributes that don't fit ${BLOCK} bytes together`);
  }
  inBlock.writeUInt32LE(blockHash(list), 12);
  return { inInode: null, inBlock };
}

/** The checksum takes in where the block is. */
export function sealXattrBlock(block: Buffer, position: number, seed: number): void {
  const place = Buffer.alloc(8);
  place.writeUInt32LE(position);
  block.writeUInt32LE(0, 16);
  block.writeUInt32LE(crc32c(crc32c(seed, place), block), 16);
}

function parse(path: Name, name: string, value: Uint8Array): Xattr {
  const list = ACCESS_LISTS[name];
  if (list !== undefined) return { index: list, name: Buffer.alloc(0), value: accessList(path, name, value) };
  const known = PREFIXES.find(([prefix]) => name.startsWith(prefix) && name.length > prefix.length);
  if (known === undefined)
    throw invalid(path, `has the extended attribute '${name}', of a kind that ext4 does not keep`);
  const [prefix, index] = known;
  const rest = Buffer.from(name.slice(prefix.length), "utf8");
  if (rest.length > 255 || rest.includes(0)) throw invalid(path, "has an extended attribute with a bad name");
  return { index, name: rest, value: Buffer.from(value) };
}

/** Readers expect this order in a block. */
function order(a: Xattr, b: Xattr): number {
  return a.index - b.index || a.name.length - b.name.length || Buffer.compare(a.name, b.name);
}

/** Entries grow from the front, values from the end; four zero bytes end the entries. False if it doesn't fit. */
function pack(
  into: Buffer,
  start: number,
  offsetsFrom: number,
  list: readonly Xattr[],
  hash: (xattr: Xattr) => number,
): boolean {
  let front = start;
  let back = into.length;
  for (const xattr of list) {
    const entry = ENTRY + round(xattr.name.length);
    back -= round(xattr.value.length);
    if (front + entry + 4 > back) return false;
    into[front] = xattr.name.length;
    into[front + 1] = xattr.index;
    into.writeUInt16LE(xattr.value.length === 0 ? 0 : back - offsetsFrom, front + 2);
    into.writeUInt32LE(xattr.value.length, front + 8);
    into.writeUInt32LE(hash(xattr), front + 12);
    xattr.name.copy(into, front + ENTRY);
    xattr.value.copy(into, back);
    front += entry;
  }
  return true;
}

function round(length: number): number {
  return (length + 3) & ~3;
}

function entryHash({ name, value }: Xattr): number {
  let hash = 0;
  for (const byte of name) hash = ((hash << 5) ^ (hash >>> 27) ^ byte) >>> 0;
  const padded = Buffer.alloc(round(value.length));
  value.copy(padded);
  for (let at = 0; at < padded.length; at += 4) {
    hash = ((hash << 16) ^ (hash >>> 16) ^ padded.readUInt32LE(at)) >>> 0;
  }
  return hash;
}

function blockHash(list: readonly Xattr[]): number {
  let hash = 0;
  for (const xattr of list) hash = ((hash << 16) ^ (hash >>> 16) ^ entryHash(xattr)) >>> 0;
  return hash;
}

/**
 * Access lists have one form at the system call (version 2, eight bytes an entry) and a shorter one on disk (version 1, four bytes
 * where no user or group is named). Source: include/uapi/linux/posix_acl_xattr.h, fs/ext4/acl.h.
 */
function accessList(path: Name, name: string, value: Uint8Array): Buffer {
  const from = Buffer.from(value);
  if (from.length < 4 || from.readUInt32LE(0) !== 2 || (from.length - 4) % 8 !== 0) {
    throw invalid(path, `has a damaged access list '${name}'`);
  }
  const parts: Buffer[] = [Buffer.from([1, 0, 0, 0])];
  for (let at = 4; at < from.length; at += 8) {
    const tag = from.readUInt16LE(at);
    const named = tag === 0x02 || tag === 0x08;
    parts.push(from.subarray(at, at + (named ? 8 : 4)));
  }
  return Buffer.concat(parts);
}
