import { type Blocks, countZeroBits, fillBits, tooLarge } from "./blocks.js";
import { crc32c } from "./crc32c.js";
import { type DirectoryEntry, encodeDirectory } from "./directory.js";
import { appendBlocks, encodeExtents } from "./extents.js";
import {
  BLOCK,
  BLOCKS_PER_GROUP,
  DESCRIPTOR_SIZE,
  type Ext4Sink,
  type Extent,
  FIRST_INODE,
  INODE_SIZE,
  INODES_PER_BLOCK,
  JOURNAL_INODE,
  MAX_GROUPS,
  MAX_INODES_PER_GROUP,
  ROOT_INODE,
} from "./format.js";
import { deriveIdentity, type Identity } from "./identity.js";
import { encodeInode, inodeSeed } from "./inode.js";
import { encodeJournalSuperblock, journalBlocks } from "./journal.js";
import { type Geometry, type Group, inodeTableBlocks, metadataSeed, superblocks } from "./superblock.js";
import { type Inode, isFastLink, type Tree } from "./tree.js";
import type { Ext4Options, Ext4Result } from "./writer.js";
import { NO_XATTRS, sealXattrBlock } from "./xattr.js";

/** Writes directories, inodes, bitmaps and superblocks behind the files' blocks, and so gives the file system its size. */
export async function writeMetadata(
  sink: Ext4Sink,
  tree: Tree,
  blocks: Blocks,
  options: Required<Ext4Options>,
): Promise<Ext4Result> {
  const inodes = numberInodes(tree);
  const label = Buffer.from(options.label, "utf8");
  const identity = deriveIdentity(inodes, label);
  const seed = metadataSeed(identity.uuid);
  const writer = new InodeWriter(sink, blocks, identity, seed);

  const encoded = new Map<number, Buffer>();
  for (const inode of inodes) encoded.set(inode.number, await writer.write(inode));
  const journal = options.journal ? await writeJournal(writer, sink, blocks, options, identity, encoded) : null;

  const lastInode = inodes.reduce((most, inode) => Math.max(most, inode.number), FIRST_INODE);
  const plan = planGroups(blocks, lastInode + options.freeInodes, Math.ceil(options.freeBytes / BLOCK));
  const groups = await writeGroups(sink, blocks, plan, inodes, lastInode, encoded, seed);
  const geometry: Geometry = {
    ...identity,
    label,
    blocks: plan.total,
    inodesPerGroup: plan.inodesPerGroup,
    journal,
    groups,
  };
  for (const { position, data } of superblocks(geometry)) await sink.write(position, data);
  const hex = identity.uuid.toString("hex");
  return {
    size: plan.total * BLOCK,
    uuid: hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"),
    inodes: inodes.length,
  };
}

/** Gives each inode its number, in the order of the tree. */
function numberInodes(tree: Tree): Inode[] {
  const inodes = [...tree.inodes()];
  let next = FIRST_INODE + 1;
  for (const inode of inodes) {
    if (inode === tree.root) inode.number = ROOT_INODE;
    else if (inode === tree.lostAndFound) inode.number = FIRST_INODE;
    else inode.number = next++;
  }
  return inodes;
}

/** Turns inodes into their bytes, and writes what belongs to each outside of them. */
class InodeWriter {
  readonly #sink: Ext4Sink;
  readonly #blocks: Blocks;
  readonly #identity: Identity;
  readonly #seed: number;

  constructor(sink: Ext4Sink, blocks: Blocks, identity: Identity, seed: number) {
    this.#sink = sink;
    this.#blocks = blocks;
    this.#identity = identity;
    this.#seed = seed;
  }

  async write(inode: Inode): Promise<Buffer> {
    const seed = inodeSeed(this.#seed, inode.number);
    let indexed = false;
    if (inode.type === "directory") {
      const content = encodeDirectory(
        inode.number,
        inode.parent?.number ?? ROOT_INODE,
        entriesOf(inode),
        seed,
        this.#identity.hashSeed,
      );
      indexed = content.indexed;
      inode.size = content.blocks.length * BLOCK;
      inode.extents = await this.#writeRun(content.blocks);
    }
    const hasExtents =
      inode.type === "file" || inode.type === "directory" || (inode.type === "symlink" && !isFastLink(inode));
    const extents = hasExtents ? encodeExtents(inode.extents, seed, () => this.#blocks.take()) : null;
    for (const block of extents?.blocks ?? []) await this.#sink.write(block.position * BLOCK, block.data);

    let xattrBlock = 0;
    const { inBlock } = inode.xattrs;
    if (inBlock !== null) {
      xattrBlock = this.#blocks.take();
      sealXattrBlock(inBlock, xattrBlock, this.#seed);
      await this.#sink.write(xattrBlock * BLOCK, inBlock);
    }
    const data = inode.extents.reduce((sum, extent) => sum + extent.count, 0);
    return encodeInode(
      inode,
      {
        extentRoot: extents?.root ?? null,
        blocks: data + (extents?.blocks.length ?? 0) + (xattrBlock === 0 ? 0 : 1),
        indexed,
        xattrBlock,
      },
      this.#seed,
    );
  }

  async #writeRun(content: readonly Buffer[]): Promise<Extent[]> {
    const extents: Extent[] = [];
    for (const [logical, data] of content.entries()) {
      const block = this.#blocks.take();
      appendBlocks(extents, logical, block);
      await this.#sink.write(block * BLOCK, data);
    }
    return extents;
  }
}

function entriesOf(directory: Inode): DirectoryEntry[] {
  return [...directory.children].map(([name, child]) => ({
    inode: child.number,
    name: Buffer.from(name, "latin1"),
    type: child.type,
  }));
}

async function writeJournal(
  writer: InodeWriter,
  sink: Ext4Sink,
  blocks: Blocks,
  options: Required<Ext4Options>,
  identity: Identity,
  encoded: Map<number, Buffer>,
): Promise<Geometry["journal"]> {
  const count = journalBlocks(blocks.next + Math.ceil(options.freeBytes / BLOCK));
  const extents: Extent[] = [];
  for (let logical = 0; logical < count; logical++) appendBlocks(extents, logical, blocks.take());
  await sink.write((extents[0]?.start ?? 0) * BLOCK, encodeJournalSuperblock(count, identity.uuid));
  const bytes = await writer.write({
    number: JOURNAL_INODE,
    type: "file",
    attributes: { mode: 0o600, mtime: identity.time },
    xattrs: NO_XATTRS,
    links: 1,
    size: count * BLOCK,
    extents,
    crc: 0,
    target: Buffer.alloc(0),
    device: null,
    children: new Map(),
    parent: null,
    implied: false,
  });
  encoded.set(JOURNAL_INODE, bytes);
  return { size: count * BLOCK, extentRoot: bytes.subarray(0x28, 0x28 + 60) };
}

interface Plan {
  readonly total: number;
  readonly inodesPerGroup: number;
  readonly blockBitmaps: readonly number[];
  readonly inodeBitmaps: readonly number[];
  readonly inodeTables: readonly number[];
}

/** A last group with less than this beside a superblock would be more overhead than room. */
const LEAST_GROUP = 256;

/** Finds the smallest number of groups that holds what is there, the groups' own metadata, and the free room. */
function planGroups(blocks: Blocks, inodes: number, freeBlocks: number): Plan {
  const least = Math.max(
    Math.ceil(inodes / MAX_INODES_PER_GROUP),
    Math.ceil((blocks.next + freeBlocks) / BLOCKS_PER_GROUP),
  );
  for (let groups = least; ; groups++) {
    if (groups > MAX_GROUPS) throw tooLarge();
    const trial = blocks.copy();
    const inodesPerGroup = Math.ceil(Math.ceil(inodes / groups) / INODES_PER_BLOCK) * INODES_PER_BLOCK;
    const each = (count: number): number[] => Array.from({ length: groups }, () => trial.takeRun(count));
    const plan = {
      inodesPerGroup,
      blockBitmaps: each(1),
      inodeBitmaps: each(1),
      inodeTables: each(inodeTableBlocks(inodesPerGroup)),
    };
    const needed = Math.max(trial.next + freeBlocks, (groups - 1) * BLOCKS_PER_GROUP + LEAST_GROUP);
    const total = Math.ceil(needed / 256) * 256; // whole MiB
    if (total <= groups * BLOCKS_PER_GROUP) {
      blocks.become(trial);
      return { total, ...plan };
    }
  }
}

async function writeGroups(
  sink: Ext4Sink,
  blocks: Blocks,
  plan: Plan,
  inodes: readonly Inode[],
  lastInode: number,
  encoded: ReadonlyMap<number, Buffer>,
  seed: number,
): Promise<Group[]> {
  const { inodesPerGroup } = plan;
  const count = plan.blockBitmaps.length;
  const blockBitmaps = blocks.bitmaps(plan.total, Math.ceil((count * DESCRIPTOR_SIZE) / BLOCK));
  const directories = new Array<number>(count).fill(0);
  for (const inode of inodes) {
    const group = Math.floor((inode.number - 1) / inodesPerGroup);
    if (inode.type === "directory") directories[group] = (directories[group] as number) + 1;
  }
  const groups: Group[] = [];
  for (const [group, blockBitmap] of blockBitmaps.entries()) {
    const first = group * inodesPerGroup + 1;
    const used = Math.min(Math.max(lastInode - first + 1, 0), inodesPerGroup);
    const inodeBitmap = Buffer.alloc(BLOCK);
    fillBits(inodeBitmap, 0, used, true);
    fillBits(inodeBitmap, inodesPerGroup, BLOCK * 8, true);
    const place = {
      blockBitmap: plan.blockBitmaps[group] as number,
      inodeBitmap: plan.inodeBitmaps[group] as number,
      inodeTable: plan.inodeTables[group] as number,
    };
    await sink.write(place.blockBitmap * BLOCK, blockBitmap);
    await sink.write(place.inodeBitmap * BLOCK, inodeBitmap);
    await writeInodeTable(sink, place.inodeTable, first, used, encoded);
    groups.push({
      ...place,
      freeBlocks: countZeroBits(blockBitmap),
      freeInodes: inodesPerGroup - used,
      directories: directories[group] as number,
      unusedInodes: inodesPerGroup - used,
      blockBitmapCrc: crc32c(seed, blockBitmap),
      inodeBitmapCrc: crc32c(seed, inodeBitmap, 0, inodesPerGroup / 8),
    });
  }
  return groups;
}

async function writeInodeTable(
  sink: Ext4Sink,
  table: number,
  first: number,
  used: number,
  encoded: ReadonlyMap<number, Buffer>,
): Promise<void> {
  const bytes = Buffer.alloc(Math.ceil(used / INODES_PER_BLOCK) * BLOCK);
  for (let index = 0; index < used; index++) encoded.get(first + index)?.copy(bytes, index * INODE_SIZE);
  if (bytes.length > 0) await sink.write(table * BLOCK, bytes);
}
