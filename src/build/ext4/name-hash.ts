/* The hash that orders names in an indexed directory: half MD4 over unsigned bytes (Linux: fs/ext4/hash.c). */

const K2 = 0x5a827999;
const K3 = 0x6ed9eba1;
const PIECE = 32;
const LAST_HASH = 0x7fffffff;

export type HashSeed = readonly [number, number, number, number];

/** The hash of a name, always even: the lowest bit marks a hash that goes on in the next block. */
export function nameHash(name: Uint8Array, seed: HashSeed): number {
  const state = Int32Array.from(seed);
  const words = new Int32Array(PIECE / 4);
  for (let at = 0; at < name.length; at += PIECE) {
    fillWords(words, name, at);
    mix(state, words);
  }
  const hash = ((state[1] as number) & ~1) >>> 0;
  // The largest value means "end of directory" to readers, so a name must not have it.
  return hash === LAST_HASH * 2 ? (LAST_HASH - 1) * 2 : hash;
}

function fillWords(words: Int32Array, name: Uint8Array, from: number): void {
  const left = name.length - from;
  let pad = left | (left << 8);
  pad |= pad << 16;
  const take = Math.min(left, PIECE);
  for (let index = 0; index < words.length; index++) {
    let word = pad;
    for (let at = index * 4; at < Math.min(index * 4 + 4, take); at++) word = (name[from + at] as number) + (word << 8);
    words[index] = word;
  }
}

function mix(state: Int32Array, words: Int32Array): void {
  let [a, b, c, d] = state as unknown as [number, number, number, number];
  const word = (index: number): number => words[index] as number;
  const rotate = (value: number, by: number): number => (value << by) | (value >>> (32 - by));
  const f = (x: number, y: number, z: number): number => z ^ (x & (y ^ z));
  const g = (x: number, y: number, z: number): number => ((x & y) + ((x ^ y) & z)) | 0;
  const h = (x: number, y: number, z: number): number => x ^ y ^ z;
  const round = (
    chosen: (x: number, y: number, z: number) => number,
    order: readonly number[],
    constant: number,
    shifts: readonly [number, number, number, number],
  ): void => {
    for (let at = 0; at < order.length; at += 4) {
      const next = (offset: number): number => (word(order[at + offset] as number) + constant) | 0;
      a = rotate((a + chosen(b, c, d) + next(0)) | 0, shifts[0]);
      d = rotate((d + chosen(a, b, c) + next(1)) | 0, shifts[1]);
      c = rotate((c + chosen(d, a, b) + next(2)) | 0, shifts[2]);
      b = rotate((b + chosen(c, d, a) + next(3)) | 0, shifts[3]);
    }
  };
  round(f, [0, 1, 2, 3, 4, 5, 6, 7], 0, [3, 7, 11, 19]);
  round(g, [1, 3, 5, 7, 0, 2, 4, 6], K2, [3, 5, 9, 13]);
  round(h, [3, 7, 2, 6, 1, 5, 0, 4], K3, [3, 9, 11, 15]);
  state[0] = (state[0] as number) + a;
  state[1] = (state[1] as number) + b;
  state[2] = (state[2] as number) + c;
  state[3] = (state[3] as number) + d;
}
