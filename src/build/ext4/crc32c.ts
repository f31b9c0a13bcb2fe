/* CRC-32C (Castagnoli), the checksum of ext4's metadata_csum: reflected polynomial 0x82f63b78, without the final inversion. */

const POLYNOMIAL = 0x82f63b78;

/** tables[k][b] is the checksum of byte b followed by k zero bytes: eight bytes are taken at a time ("slicing by 8"). */
const tables: readonly Int32Array[] = (() => {
  const first = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    first[byte] = value;
  }
  const all = [first];
  for (let k = 1; k < 8; k++) {
    const before = all[k - 1] as Int32Array;
    all.push(before.map((value) => (value >>> 8) ^ (first[value & 0xff] as number)));
  }
  return all;
})();

const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as [
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
  Int32Array,
];

/** Carries `seed` over `data`; start with 0xffffffff. */
export function crc32c(seed: number, data: Uint8Array, start = 0, end = data.length): number {
  let crc = seed | 0;
  let at = start;
  for (; at + 8 <= end; at += 8) {
    crc ^= byte(data, at) | (byte(data, at + 1) << 8) | (byte(data, at + 2) << 16) | (byte(data, at + 3) << 24);
    crc =
      look(t7, crc & 0xff) ^
      look(t6, (crc >>> 8) & 0xff) ^
      look(t5, (crc >>> 16) & 0xff) ^
      look(t4, crc >>> 24) ^
      look(t3, byte(data, at + 4)) ^
      look(t2, byte(data, at + 5)) ^
      look(t1, byte(data, at + 6)) ^
      look(t0, byte(data, at + 7));
  }
  for (; at < end; at++) crc = look(t0, (crc ^ byte(data, at)) & 0xff) ^ (crc >>> 8);
  return crc >>> 0;
}

function byte(data: Uint8Array, at: number): number {
  return data[at] as number;
}

function look(table: Int32Array, index: number): number {
  return table[index] as number;
}

export function crc32cOfNumber(seed: number, value: number): number {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return crc32c(seed, bytes);
}
