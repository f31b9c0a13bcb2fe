import { ImageError } from "../errors.js";

const MAGIC = 0x184c2102;
/** Up to this many bytes, a loop is quicker than a call. */
const SHORT = 48;
/** Each block unpacks to at most this much. */
const BLOCK_LIMIT = 8 * 1024 * 1024;

export function isLz4Legacy(data: Uint8Array): boolean {
  return data.length >= 4 && Buffer.from(data.buffer, data.byteOffset, 4).readUInt32LE() === MAGIC;
}

/**
 * Unpacks the "legacy" LZ4 frame that kernels are packed with: blocks, each preceded by its length. The size of the whole, which
 * the kernel's build appends, ends it. Source: LZ4, doc/lz4_Frame_format.md and doc/lz4_Block_format.md.
 */
export function unpackLz4Legacy(data: Buffer, limit: number): Buffer {
  const blocks: Buffer[] = [];
  const scratch = Buffer.allocUnsafe(BLOCK_LIMIT);
  let total = 0;
  for (let at = 4; at + 8 <= data.length;) {
    const length = data.readUInt32LE(at);
    at += 4;
    if (length === MAGIC) continue; // a further frame
    if (length === 0 || at + length > data.length) throw damaged();
    const block = unpackBlock(data.subarray(at, at + length), scratch);
    total += block.length;
    if (total > limit) throw damaged();
    blocks.push(block);
    at += length;
  }
  if (data.readUInt32LE(data.length - 4) !== total) throw damaged();
  return Buffer.concat(blocks);
}

function unpackBlock(source: Buffer, target: Buffer): Buffer {
  let at = 0;
  let out = 0;
  /** 15 in the token means that more follows, byte by byte, as long as they are 255. */
  const length = (start: number): number => {
    let value = start;
    if (start !== 15) return value;
    for (;;) {
      const byte = source[at++];
      if (byte === undefined) throw damaged();
      value += byte;
      if (byte !== 255) return value;
    }
  };
  while (at < source.length) {
    const token = source[at++] as number;
    const literals = length(token >>> 4);
    if (at + literals > source.length || out + literals > BLOCK_LIMIT) throw damaged();
    if (literals > SHORT) source.copy(target, out, at, at + literals);
    else for (let index = 0; index < literals; index++) target[out + index] = source[at + index] as number;
    at += literals;
    out += literals;
    if (at === source.length) return Buffer.from(target.subarray(0, out)); // the last sequence has no match
    if (at + 2 > source.length) throw damaged();
    const offset = source.readUInt16LE(at);
    at += 2;
    const match = length(token & 15) + 4;
    if (offset === 0 || offset > out || out + match > BLOCK_LIMIT) throw damaged();
    // A match may reach into what it itself writes: then it repeats.
    if (match > SHORT && offset >= match) target.copy(target, out, out - offset, out - offset + match);
    else for (let index = 0; index < match; index++) target[out + index] = target[out - offset + index] as number;
    out += match;
  }
  throw damaged();
}

function damaged(): ImageError {
  return new ImageError("IMAGE_INVALID", "The LZ4 data in the kernel is damaged.");
}
