import { ImageError } from "../../errors.js";
import { crc32c } from "./crc32c.js";
import { BLOCK, FILE_TYPES, type FileType } from "./format.js";
import { type HashSeed, nameHash } from "./name-hash.js";

export interface DirectoryEntry {
  readonly inode: number;
  readonly name: Buffer;
  readonly type: FileType;
}

export interface DirectoryContent {
  readonly blocks: readonly Buffer[];
  /** True if the blocks are a hash index with leaves, which the inode's flags must say. */
  readonly indexed: boolean;
}

const ENTRY_HEADER = 8;
/** Each leaf ends with a checksum that looks like an unused entry. */
const TAIL = 12;
const TAIL_TYPE = 0xde;
const LEAF_ROOM = BLOCK - TAIL;

const HALF_MD4 = 1;
const INDEX_ENTRY = 8;
const ROOT_ENTRIES_AT = 32;
const NODE_ENTRIES_AT = 8;
/** One place less than would fit: the checksum stands there. */
const ROOT_LIMIT = (BLOCK - ROOT_ENTRIES_AT) / INDEX_ENTRY - 1;
const NODE_LIMIT = (BLOCK - NODE_ENTRIES_AT) / INDEX_ENTRY - 1;

/**
 * Encodes a directory: one block with the entries as given, or, where they need more, a hash index ("htree") over leaves, in which
 * a lookup reads two or three blocks whatever the size. `checksumSeed` is that of the directory's inode.
 */
export function encodeDirectory(
  self: number,
  parent: number,
  entries: readonly DirectoryEntry[],
  checksumSeed: number,
  hashSeed: HashSeed,
): DirectoryContent {
  const dots: DirectoryEntry[] = [
    { inode: self, name: Buffer.from("."), type: "directory" },
    { inode: parent, name: Buffer.from(".."), type: "directory" },
  ];
  const all = [...dots, ...entries];
  if (all.reduce((sum, entry) => sum + entrySize(entry), 0) <= LEAF_ROOM) {
    return { blocks: [leaf(all, checksumSeed)], indexed: false };
  }
  return { blocks: indexed(dots, entries, checksumSeed, hashSeed), indexed: true };
}

function entrySize({ name }: DirectoryEntry): number {
  return (ENTRY_HEADER + name.length + 3) & ~3;
}

function leaf(entries: readonly DirectoryEntry[], checksumSeed: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  let at = 0;
  entries.forEach((entry, index) => {
    // The last entry reaches to the end, so that the whole block is accounted for.
    const size = index === entries.length - 1 ? LEAF_ROOM - at : entrySize(entry);
    writeEntry(block, at, entry, size);
    at += size;
  });
  block.writeUInt16LE(TAIL, LEAF_ROOM + 4);
  block[LEAF_ROOM + 7] = TAIL_TYPE;
  block.writeUInt32LE(crc32c(checksumSeed, block, 0, LEAF_ROOM), LEAF_ROOM + 8);
  return block;
}

function writeEntry(block: Buffer, at: number, entry: DirectoryEntry, size: number): void {
  block.writeUInt32LE(entry.inode, at);
  block.writeUInt16LE(size, at + 4);
  block[at + 6] = entry.name.length;
  block[at + 7] = FILE_TYPES[entry.type].entry;
  entry.name.copy(block, at + ENTRY_HEADER);
}

interface Leaf {
  readonly hash: number;
  readonly block: number;
}

function indexed(
  dots: readonly DirectoryEntry[],
  entries: readonly DirectoryEntry[],
  checksumSeed: number,
  hashSeed: HashSeed,
): Buffer[] {
  const sorted = entries
    .map((entry) => ({ entry, hash: nameHash(entry.name, hashSeed) }))
    .sort((a, b) => a.hash - b.hash || Buffer.compare(a.entry.name, b.entry.name));
  const parts = pack(sorted);
  // The order of blocks in the file: the root, then the second level if there is one, then the leaves.
  const nodes = parts.length > ROOT_LIMIT ? Math.ceil(parts.length / NODE_LIMIT) : 0;
  if (nodes > ROOT_LIMIT) {
    throw new ImageError(
      "IMAGE_INVALID",
      `A directory has ${entries.length} entries, more than a two-level index can hold.`,
    );
  }
  const leaves = parts.map((part, index): Leaf => ({ hash: part.hash, block: 1 + nodes + index }));
  const root = Buffer.alloc(BLOCK);
  writeEntry(root, 0, dots[0] as DirectoryEntry, 12);
  writeEntry(root, 12, dots[1] as DirectoryEntry, BLOCK - 12);
  root[28] = HALF_MD4;
  root[29] = 8; // length of this information
  root[30] = nodes === 0 ? 0 : 1; // levels between root and leaves
  const second: Leaf[] = [];
  const nodeBlocks: Buffer[] = [];
  for (let index = 0; index < nodes; index++) {
    const below = leaves.slice(index * NODE_LIMIT, (index + 1) * NODE_LIMIT);
    const node = Buffer.alloc(BLOCK);
    node.writeUInt16LE(BLOCK, 4); // one unused entry over the whole block
    writeIndex(node, NODE_ENTRIES_AT, NODE_LIMIT, below, checksumSeed);
    nodeBlocks.push(node);
    second.push({ hash: below[0]?.hash ?? 0, block: 1 + index });
  }
  writeIndex(root, ROOT_ENTRIES_AT, ROOT_LIMIT, nodes === 0 ? leaves : second, checksumSeed);
  return [root, ...nodeBlocks, ...parts.map((part) => leaf(part.entries, checksumSeed))];
}

/** Cuts the sorted entries into leaves. A leaf that goes on with the hash that the one before ends with has the lowest bit set. */
function pack(
  sorted: readonly { entry: DirectoryEntry; hash: number }[],
): { hash: number; entries: DirectoryEntry[] }[] {
  const parts: { hash: number; entries: DirectoryEntry[] }[] = [];
  let room = 0;
  let before = -1;
  for (const { entry, hash } of sorted) {
    const size = entrySize(entry);
    if (size > room) {
      parts.push({ hash: hash === before ? hash + 1 : hash, entries: [] });
      room = LEAF_ROOM;
    }
    parts.at(-1)?.entries.push(entry);
    room -= size;
    before = hash;
  }
  return parts;
}

function writeIndex(block: Buffer, at: number, limit: number, below: readonly Leaf[], checksumSeed: number): void {
  below.forEach(({ hash, block: number }, index) => {
    const place = at + index * INDEX_ENTRY;
    // The first entry stands for all lower hashes: limit and count are kept where its hash would be.
    if (index === 0) {
      block.writeUInt16LE(limit, place);
      block.writeUInt16LE(below.length, place + 2);
    } else {
      block.writeUInt32LE(hash, place);
    }
    block.writeUInt32LE(number, place + 4);
  });
  const crc = crc32c(checksumSeed, block, 0, at + below.length * INDEX_ENTRY);
  block.writeUInt32LE(crc32c(crc, Buffer.alloc(8)), at + limit * INDEX_ENTRY + 4);
}
