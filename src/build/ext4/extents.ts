import { crc32c } from "./crc32c.js";
import { BLOCK, type Extent, MAX_EXTENT } from "./format.js";

const MAGIC = 0xf30a;
const HEADER = 12;
const ENTRY = 12;
const IN_INODE = 4;
/** What fits a block beside the header and the checksum at its end. */
const IN_BLOCK = Math.floor((BLOCK - HEADER - 4) / ENTRY);

/** Appends a block to a file's extents, lengthening the last one where it goes on. */
export function appendBlocks(extents: Extent[], logical: number, start: number, count = 1): void {
  const last = extents.at(-1);
  if (
    last !== undefined &&
    last.logical + last.count === logical &&
    last.start + last.count === start &&
    last.count + count <= MAX_EXTENT
  ) {
    last.count += count;
  } else {
    extents.push({ logical, start, count });
  }
}

export interface ExtentTree {
  /** The 60 bytes that stand in the inode. */
  readonly root: Buffer;
  /** Blocks of the tree outside the inode. */
  readonly blocks: readonly { readonly position: number; readonly data: Buffer }[];
}

/** Encodes a file's extents. `allocate` gives one free block at a time; `seed` is the inode's checksum seed. */
export function encodeExtents(extents: readonly Extent[], seed: number, allocate: () => number): ExtentTree {
  const blocks: { position: number; data: Buffer }[] = [];
  let depth = 0;
  let entries: { logical: number; bytes: Buffer }[] = extents.map((extent) => ({
    logical: extent.logical,
    bytes: leafEntry(extent),
  }));
  while (entries.length > IN_INODE) {
    const above: typeof entries = [];
    for (let at = 0; at < entries.length; at += IN_BLOCK) {
      const part = entries.slice(at, at + IN_BLOCK);
      const data = Buffer.alloc(BLOCK);
      writeNode(data, part, IN_BLOCK, depth);
      const tail = HEADER + IN_BLOCK * ENTRY;
      data.writeUInt32LE(crc32c(seed, data, 0, tail), tail);
      const position = allocate();
      blocks.push({ position, data });
      const logical = part[0]?.logical ?? 0;
      above.push({ logical, bytes: indexEntry(logical, position) });
    }
    entries = above;
    depth += 1;
  }
  const root = Buffer.alloc(60);
  writeNode(root, entries, IN_INODE, depth);
  return { root, blocks };
}

function writeNode(node: Buffer, entries: readonly { bytes: Buffer }[], most: number, depth: number): void {
  node.writeUInt16LE(MAGIC, 0);
  node.writeUInt16LE(entries.length, 2);
  node.writeUInt16LE(most, 4);
  node.writeUInt16LE(depth, 6);
  entries.forEach((entry, index) => entry.bytes.copy(node, HEADER + index * ENTRY));
}

function leafEntry({ logical, start, count }: Extent): Buffer {
  const bytes = Buffer.alloc(ENTRY);
  bytes.writeUInt32LE(logical, 0);
  bytes.writeUInt16LE(count, 4);
  bytes.writeUInt32LE(start, 8);
  return bytes;
}

function indexEntry(logical: number, position: number): Buffer {
  const bytes = Buffer.alloc(ENTRY);
  bytes.writeUInt32LE(logical, 0);
  bytes.writeUInt32LE(position, 4);
  return bytes;
}
