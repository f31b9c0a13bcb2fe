/** A small, fast generator whose runs can be repeated: xorshift32 (Marsaglia, "Xorshift RNGs", 2003). */
export class Dice {
  readonly seed: number;
  #state: number;

  constructor(seed = Number(process.env["SMOLVM_FUZZ_SEED"] ?? Date.now() % 0x7fff_ffff)) {
    this.seed = seed;
    this.#state = seed === 0 ? 1 : seed;
  }

  /** A whole number from 0 to below `limit`. */
  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % limit;
  }

  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  bytes(length: number): Buffer {
    const buffer = Buffer.allocUnsafe(length);
    for (let i = 0; i < length; i++) buffer[i] = this.below(256);
    return buffer;
  }

  /** Numbers that break things more often than others do. */
  number(): number {
    const odd = [
      0, 1, 2, 63, 64, 65, 127, 128, 255, 256, 4096, 65_535, 65_536, 262_143, 262_144, 262_145, 0x7fff_ffff,
      0xffff_ffff,
    ];
    return this.chance(2) ? this.pick(odd) : this.below(0xffff_ffff);
  }

  /** Flips, cuts, doubles or overwrites a part. */
  mutate(bytes: Buffer): Buffer {
    if (bytes.length === 0) return this.bytes(this.below(16));
    const copy = Buffer.from(bytes);
    const at = this.below(copy.length);
    switch (this.below(5)) {
      case 0:
        copy[at] = (copy[at] ?? 0) ^ (1 << this.below(8));
        return copy;
      case 1:
        return copy.subarray(0, at);
      case 2:
        return Buffer.concat([copy, copy.subarray(at)]);
      case 3:
        if (copy.length - at >= 4) copy.writeUInt32LE(this.number(), at);
        return copy;
      default:
        return Buffer.concat([copy.subarray(0, at), this.bytes(this.below(32)), copy.subarray(at)]);
    }
  }
}

/** How long a fuzz run lasts: ten seconds in all runs, ten minutes with SMOLVM_TEST_LONG=1. */
export const FUZZ_MS = process.env["SMOLVM_TEST_LONG"] === "1" ? 600_000 : 10_000;
