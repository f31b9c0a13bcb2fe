import { ImageError } from "../../errors.js";
import { BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR_BLOCKS, MAX_GROUPS } from "./format.js";

/** A superblock and the room for descriptors behind it. */
const RESERVED = 1 + DESCRIPTOR_BLOCKS;

/** True if the group begins with a superblock: the first, and copies in group 1 and the powers of 3, 5 and 7 (sparse_super). */
export function hasSuperblock(group: number): boolean {
  if (group <= 1) return true;
  return [3, 5, 7].some((base) => {
    let power = base;
    while (power < group) power *= base;
    return power === group;
  });
}

/**
 * Gives out blocks in ascending order, stepping over what superblocks need. Nothing is given out twice: what is freed stays unused
 * in the image and is free for the system that mounts it.
 */
export class Blocks {
  #next = RESERVED;
  /** Freed runs. */
  readonly #freed: { readonly start: number; readonly count: number }[] = [];

  /** The first block that was not given out. */
  get next(): number {
    return this.#next;
  }

  /** One block. */
  take(): number {
    return this.takeRun(1);
  }

  /** A run of `count` blocks, which must be fewer than a group has beside a superblock. */
  takeRun(count: number): number {
    for (;;) {
      const group = Math.floor(this.#next / BLOCKS_PER_GROUP);
      const start = group * BLOCKS_PER_GROUP;
      if (this.#next < start + RESERVED && hasSuperblock(group)) this.#next = start + RESERVED;
      const border = (group + 1) * BLOCKS_PER_GROUP;
      if (this.#next + count <= border || !hasSuperblock(group + 1)) break;
      this.free(this.#next, border - this.#next);
      this.#next = border;
    }
    const start = this.#next;
    this.#next += count;
    if (this.#next > MAX_GROUPS * BLOCKS_PER_GROUP) throw tooLarge();
    return start;
  }

  free(start: number, count: number): void {
    if (count > 0) this.#freed.push({ start, count });
  }

  /** A copy to try something on; `become` makes the trial real. */
  copy(): Blocks {
    const copy = new Blocks();
    copy.#next = this.#next;
    copy.#freed.push(...this.#freed);
    return copy;
  }

  become(trial: Blocks): void {
    this.#next = trial.#next;
    this.#freed.splice(0, Infinity, ...trial.#freed);
  }

  /** The block bitmap of each group of a file system of `total` blocks, with `descriptorBlocks` of descriptors in use. */
  bitmaps(total: number, descriptorBlocks: number): Buffer[] {
    const groups = Math.ceil(total / BLOCKS_PER_GROUP);
    const all = Buffer.alloc(groups * BLOCK);
    fillBits(all, 0, this.#next, true);
    for (const { start, count } of this.#freed) fillBits(all, start, start + count, false);
    for (let group = 0; group < groups; group++) {
      if (!hasSuperblock(group)) continue;
      const start = group * BLOCKS_PER_GROUP;
      fillBits(all, start, start + 1 + descriptorBlocks, true);
      fillBits(all, start + 1 + descriptorBlocks, start + RESERVED, false);
    }
    fillBits(all, total, groups * BLOCKS_PER_GROUP, true);
    return Array.from({ length: groups }, (_, group) => all.subarray(group * BLOCK, (group + 1) * BLOCK));
  }
}

export function fillBits(bitmap: Buffer, from: number, to: number, value: boolean): void {
  let at = from;
  const set = (): void => {
    const mask = 1 << (at & 7);
    const index = at >>> 3;
    bitmap[index] = value ? (bitmap[index] as number) | mask : (bitmap[index] as number) & ~mask;
    at += 1;
  };
  while (at < to && (at & 7) !== 0) set();
  if (to - at >= 8) {
    const bytes = (to - at) >>> 3;
    bitmap.fill(value ? 0xff : 0, at >>> 3, (at >>> 3) + bytes);
    at += bytes * 8;
  }
  while (at < to) set();
}

export function countZeroBits(bitmap: Buffer): number {
  let ones = 0;
  for (const byte of bitmap) ones += ONES[byte] as number;
  return bitmap.length * 8 - ones;
}

const ONES = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

export function tooLarge(): ImageError {
  const most = (MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK) / 2 ** 30;
  return new ImageError("IMAGE_INVALID", `The file system would be larger than ${most} GiB.`);
}
