import { readSync } from "node:fs";
import { dirname } from "node:path";

import { assertSpace, freeSpace } from "../free-space.js";

const MIB = 1024 * 1024;
/** How much of a file is written, where its need is not known, before the free space is looked at again. */
const SPACE_EVERY = 64 * MIB;

/**
 * Whether a file of `size` bytes, `missing` of them still to come, has room on its disk.
 *
 * What is free beforehand is enough in most cases. If it is not, the file may still be sparse: an image of 64 GiB with 2 GiB in it
 * needs 2 GiB. That is for certain only when all is here, but an ext file system says in its first 2 KiB how much of it is in
 * use. So such a file is refused when that does not fit, any other when its apparent size does not; both before more than a
 * first piece is written. What was let through in doubt, or came without a length, is looked after while it grows.
 */
export class SpaceRule {
  readonly #folder: string;
  readonly #fd: number;
  #size: number | null = null;
  #needed = 0;
  #state: "enough" | "undecided" | "watching" = "watching";
  #lookedAt = 0;

  constructor(path: string, fd: number) {
    this.#folder = dirname(path);
    this.#fd = fd;
  }

  /** A file of this size is about to be written, as far as `missing` says. An IMAGE_NO_SPACE error if it can't be. */
  expect(size: number | null, missing: number, prefix: number): void {
    this.#size = size;
    this.#needed = missing;
    this.#lookedAt = 0;
    this.#state = size === null ? "watching" : missing <= this.#free() ? "enough" : "undecided";
    if (this.#state !== "undecided") return;
    if ((size ?? 0) < SUPERBLOCK_END) assertSpace(this.#folder, missing);
    this.grown(prefix, prefix);
  }

  /** Whether it is known how the file is to be dealt with, so that it may be given its full size. */
  get decided(): boolean {
    return this.#state !== "undecided";
  }

  /** Called after each write: `covered` bytes of the file are here, those up to `prefix` without a gap. */
  grown(covered: number, prefix: number): void {
    if (this.#state === "enough") return;
    if (this.#state === "undecided") {
      if (prefix >= SUPERBLOCK_END) this.#decide();
      return;
    }
    if (covered - this.#lookedAt < SPACE_EVERY) return;
    this.#lookedAt = covered;
    assertSpace(this.#folder, SPACE_EVERY);
  }

  #decide(): void {
    const used = usedByExt(this.#fd, this.#size ?? 0);
    // Nobody says which part of it is here already.
    if (used === null || used - ((this.#size ?? 0) - this.#needed) > this.#free()) {
      assertSpace(this.#folder, this.#needed);
    }
    this.#state = "watching";
  }

  #free(): number {
    return freeSpace(this.#folder) ?? Infinity;
  }
}

const SUPERBLOCK = 1024;
const SUPERBLOCK_END = 2048;

/**
 * How many bytes of an ext2, ext3 or ext4 image are in use, by its superblock, or null if it is none or can't be right.
 * Offsets: Documentation/filesystems/ext4/super.rst of Linux (s_magic, s_blocks_count, s_free_blocks_count, s_log_block_size).
 */
function usedByExt(fd: number, size: number): number | null {
  const block = Buffer.alloc(SUPERBLOCK_END - SUPERBLOCK);
  if (readSync(fd, block, 0, block.length, SUPERBLOCK) < block.length || block.readUInt16LE(0x38) !== 0xef53)
    return null;
  const has64Bit = (block.readUInt32LE(0x60) & 0x80) !== 0;
  const count = (low: number, high: number): number =>
    block.readUInt32LE(low) + (has64Bit ? block.readUInt32LE(high) * 2 ** 32 : 0);
  const blockSize = 1024 * 2 ** block.readUInt32LE(0x18);
  const [blocks, free] = [count(0x04, 0x150), count(0x0c, 0x158)];
  if (blockSize > 65_536 || free > blocks || blocks * blockSize > size) return null;
  return (blocks - free) * blockSize;
}
