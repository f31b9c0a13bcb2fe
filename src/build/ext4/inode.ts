import { crc32c, crc32cOfNumber } from "./crc32c.js";
import {
  BLOCK,
  EXTRA_FIELDS,
  INODE_FLAG_EXTENTS,
  INODE_FLAG_INDEX,
  INODE_SIZE,
  MAX_LINKS,
  XATTR_ROOM,
} from "./format.js";
import { type Device, type Inode, isFastLink, modeBits } from "./tree.js";

/** What only the encoding of the rest tells. */
export interface Encoded {
  readonly extentRoot: Buffer | null;
  /** Blocks in use: data, extent tree and attribute block. */
  readonly blocks: number;
  readonly indexed: boolean;
  readonly xattrBlock: number;
}

/** The checksum seed of an inode and of what belongs to it. */
export function inodeSeed(seed: number, number: number): number {
  return crc32cOfNumber(crc32cOfNumber(seed, number), 0); // 0 is the generation of every inode here
}

export function encodeInode(inode: Inode, encoded: Encoded, seed: number): Buffer {
  const bytes = Buffer.alloc(INODE_SIZE);
  const { uid = 0, gid = 0, mtime = 0, mtimeNs = 0 } = inode.attributes;
  const sectors = encoded.blocks * (BLOCK / 512);
  bytes.writeUInt16LE(modeBits(inode), 0x00);
  bytes.writeUInt16LE(uid & 0xffff, 0x02);
  bytes.writeUInt32LE(inode.size % 2 ** 32, 0x04);
  bytes.writeUInt16LE(gid & 0xffff, 0x18);
  bytes.writeUInt16LE(linkCount(inode), 0x1a);
  bytes.writeUInt32LE(sectors % 2 ** 32, 0x1c);
  bytes.writeUInt32LE(
    (encoded.extentRoot === null ? 0 : INODE_FLAG_EXTENTS) | (encoded.indexed ? INODE_FLAG_INDEX : 0),
    0x20,
  );
  if (encoded.extentRoot !== null) encoded.extentRoot.copy(bytes, 0x28);
  else if (isFastLink(inode)) inode.target.copy(bytes, 0x28);
  else if (inode.device !== null) writeDevice(bytes, inode.device);
  bytes.writeUInt32LE(encoded.xattrBlock, 0x68);
  bytes.writeUInt32LE(Math.floor(inode.size / 2 ** 32), 0x6c);
  bytes.writeUInt16LE(Math.floor(sectors / 2 ** 32), 0x74);
  bytes.writeUInt16LE(uid >>> 16, 0x78);
  bytes.writeUInt16LE(gid >>> 16, 0x7a);
  bytes.writeUInt16LE(EXTRA_FIELDS, 0x80);
  // Access, change, modification and creation: a low word each, and one with nanoseconds and two more bits of seconds.
  for (const [low, extra] of [
    [0x08, 0x8c],
    [0x0c, 0x84],
    [0x10, 0x88],
    [0x90, 0x94],
  ] as const) {
    bytes.writeInt32LE(mtime | 0, low);
    bytes.writeUInt32LE(mtimeNs * 4 + (mtime - (mtime | 0)) / 2 ** 32, extra);
  }
  inode.xattrs.inInode?.copy(bytes, INODE_SIZE - XATTR_ROOM);
  const crc = crc32c(inodeSeed(seed, inode.number), bytes);
  bytes.writeUInt16LE(crc & 0xffff, 0x7c);
  bytes.writeUInt16LE(crc >>> 16, 0x82);
  return bytes;
}

function linkCount(inode: Inode): number {
  if (inode.type !== "directory") return inode.links;
  let links = 2;
  for (const child of inode.children.values()) if (child.type === "directory") links += 1;
  return links > MAX_LINKS ? 1 : links;
}

/** Small numbers have an old form, which every reader knows; the others a new one in the second word. */
function writeDevice(bytes: Buffer, { major, minor }: Device): void {
  if (major < 256 && minor < 256) bytes.writeUInt32LE((major << 8) | minor, 0x28);
  else bytes.writeUInt32LE(((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0, 0x2c);
}
