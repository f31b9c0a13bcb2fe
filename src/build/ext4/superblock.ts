import { hasSuperblock } from "./blocks.js";
import { crc32c, crc32cOfNumber } from "./crc32c.js";
import {
  BLOCK,
  BLOCKS_PER_GROUP,
  DESCRIPTOR_SIZE,
  EXTRA_FIELDS,
  FIRST_INODE,
  INODE_SIZE,
  INODES_PER_BLOCK,
  JOURNAL_INODE,
} from "./format.js";
import type { HashSeed } from "./name-hash.js";

/* Features, as in fs/ext4/ext4.h. */
const COMPAT = { hasJournal: 0x4, extAttr: 0x8, dirIndex: 0x20 } as const;
const INCOMPAT = { fileType: 0x2, extents: 0x40, flexBg: 0x200 } as const;
const RO_COMPAT = {
  sparseSuper: 0x1,
  largeFile: 0x2,
  hugeFile: 0x8,
  dirNlink: 0x20,
  extraIsize: 0x40,
  metadataCsum: 0x400,
} as const;

/** The file system as a whole, as its superblock tells it. */
export interface Geometry {
  readonly uuid: Buffer;
  readonly label: Buffer;
  readonly hashSeed: HashSeed;
  /** Seconds since 1970 of creation and last write. */
  readonly time: number;
  readonly blocks: number;
  readonly inodesPerGroup: number;
  /** The journal's size in bytes and the extent root of its inode; null without a journal. */
  readonly journal: { readonly size: number; readonly extentRoot: Buffer } | null;
  readonly groups: readonly Group[];
}

/** Where a group's parts are, and what is left in it. Its bitmaps and inodes may be anywhere (flex_bg). */
export interface Group {
  readonly blockBitmap: number;
  readonly inodeBitmap: number;
  readonly inodeTable: number;
  readonly freeBlocks: number;
  readonly freeInodes: number;
  readonly directories: number;
  /** Inodes at the end of the table that were never used, so that checkers need not read them. */
  readonly unusedInodes: number;
  readonly blockBitmapCrc: number;
  readonly inodeBitmapCrc: number;
}

export function inodeTableBlocks(inodesPerGroup: number): number {
  return inodesPerGroup / INODES_PER_BLOCK;
}

/** The checksum seed of all metadata. */
export function metadataSeed(uuid: Buffer): number {
  return crc32c(0xffffffff, uuid);
}

export function encodeDescriptors(groups: readonly Group[], seed: number): Buffer {
  const table = Buffer.alloc(Math.ceil((groups.length * DESCRIPTOR_SIZE) / BLOCK) * BLOCK);
  groups.forEach((group, number) => {
    const bytes = table.subarray(number * DESCRIPTOR_SIZE, (number + 1) * DESCRIPTOR_SIZE);
    bytes.writeUInt32LE(group.blockBitmap, 0x00);
    bytes.writeUInt32LE(group.inodeBitmap, 0x04);
    bytes.writeUInt32LE(group.inodeTable, 0x08);
    bytes.writeUInt16LE(group.freeBlocks, 0x0c);
    bytes.writeUInt16LE(group.freeInodes, 0x0e);
    bytes.writeUInt16LE(group.directories, 0x10);
    bytes.writeUInt16LE(0x4, 0x12); // the inode table is zeroed
    bytes.writeUInt16LE(group.blockBitmapCrc & 0xffff, 0x18);
    bytes.writeUInt16LE(group.inodeBitmapCrc & 0xffff, 0x1a);
    bytes.writeUInt16LE(group.unusedInodes, 0x1c);
    bytes.writeUInt16LE(crc32c(crc32cOfNumber(seed, number), bytes) & 0xffff, 0x1e);
  });
  return table;
}

/** The 1024 bytes of the superblock, or of its copy in `group`. */
export function encodeSuperblock(geometry: Geometry, group: number): Buffer {
  const { groups, inodesPerGroup, journal, time } = geometry;
  const sum = (field: "freeBlocks" | "freeInodes"): number => groups.reduce((total, each) => total + each[field], 0);
  const bytes = Buffer.alloc(1024);
  bytes.writeUInt32LE(groups.length * inodesPerGroup, 0x00);
  bytes.writeUInt32LE(geometry.blocks, 0x04);
  bytes.writeUInt32LE(sum("freeBlocks"), 0x0c);
  bytes.writeUInt32LE(sum("freeInodes"), 0x10);
  bytes.writeUInt32LE(2, 0x18); // block size: 1024 << 2
  bytes.writeUInt32LE(2, 0x1c);
  bytes.writeUInt32LE(BLOCKS_PER_GROUP, 0x20);
  bytes.writeUInt32LE(BLOCKS_PER_GROUP, 0x24);
  bytes.writeUInt32LE(inodesPerGroup, 0x28);
  bytes.writeUInt32LE(time, 0x30); // written
  bytes.writeUInt16LE(0xffff, 0x36); // never check by number of mounts
  bytes.writeUInt16LE(0xef53, 0x38);
  bytes.writeUInt16LE(1, 0x3a); // clean
  bytes.writeUInt16LE(1, 0x3c); // on errors: go on
  bytes.writeUInt32LE(time, 0x40); // checked
  bytes.writeUInt32LE(1, 0x4c); // revision with variable inode size and features
  bytes.writeUInt32LE(FIRST_INODE, 0x54);
  bytes.writeUInt16LE(INODE_SIZE, 0x58);
  bytes.writeUInt16LE(group, 0x5a);
  bytes.writeUInt32LE(COMPAT.extAttr | COMPAT.dirIndex | (journal === null ? 0 : COMPAT.hasJournal), 0x5c);
  bytes.writeUInt32LE(INCOMPAT.fileType | INCOMPAT.extents | INCOMPAT.flexBg, 0x60);
  bytes.writeUInt32LE(
    Object.values(RO_COMPAT).reduce((all: number, feature) => all | feature, 0),
    0x64,
  );
  geometry.uuid.copy(bytes, 0x68);
  geometry.label.copy(bytes, 0x78);
  if (journal !== null) {
    bytes.writeUInt32LE(JOURNAL_INODE, 0xe0);
    bytes[0xfd] = 1; // a copy of the journal's inode follows below
    journal.extentRoot.copy(bytes, 0x10c);
    bytes.writeUInt32LE(Math.floor(journal.size / 2 ** 32), 0x10c + 60);
    bytes.writeUInt32LE(journal.size % 2 ** 32, 0x10c + 64);
  }
  geometry.hashSeed.forEach((word, index) => bytes.writeUInt32LE(word, 0xec + index * 4));
  bytes[0xfc] = 1; // hash of names: half MD4
  bytes.writeUInt32LE(0x4 | 0x8, 0x100); // mount with user xattrs and access lists
  bytes.writeUInt32LE(time, 0x108); // made
  bytes.writeUInt16LE(EXTRA_FIELDS, 0x15c);
  bytes.writeUInt16LE(EXTRA_FIELDS, 0x15e);
  bytes.writeUInt32LE(0x2, 0x160); // names are hashed as unsigned bytes
  bytes[0x174] = 4; // 16 groups a flexible group
  bytes[0x175] = 1; // checksums are CRC-32C
  bytes.writeUInt32LE(crc32c(0xffffffff, bytes, 0, 0x3fc), 0x3fc);
  return bytes;
}

/** Every superblock and its descriptors: at the start and in the groups that keep a copy. */
export function* superblocks(geometry: Geometry): Generator<{ position: number; data: Buffer }> {
  const descriptors = encodeDescriptors(geometry.groups, metadataSeed(geometry.uuid));
  for (let group = 0; group < geometry.groups.length; group++) {
    if (!hasSuperblock(group)) continue;
    const start = group * BLOCKS_PER_GROUP * BLOCK;
    // The first leaves room for a boot sector; the copies are at the very start of their block.
    yield { position: start + (group === 0 ? 1024 : 0), data: encodeSuperblock(geometry, group) };
    yield { position: start + BLOCK, data: descriptors };
  }
}
