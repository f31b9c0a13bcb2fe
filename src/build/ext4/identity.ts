import { createHash } from "node:crypto";

import type { HashSeed } from "./name-hash.js";
import { type Inode, modeBits } from "./tree.js";

/** What a file system needs beside its files, derived from them: the same files give the same identity. */
export interface Identity {
  readonly uuid: Buffer;
  readonly hashSeed: HashSeed;
  /** The newest time of any file, in seconds since 1970. */
  readonly time: number;
}

/** `inodes` are numbered; the order in which they come counts. */
export function deriveIdentity(inodes: readonly Inode[], label: Buffer): Identity {
  const hash = createHash("sha256").update("smolvm ext4 1\0").update(label);
  let time = 0;
  const seen = new Set<Inode>();
  for (const inode of inodes) {
    if (seen.has(inode)) continue;
    seen.add(inode);
    const { uid = 0, gid = 0, mtime = 0, mtimeNs = 0, xattrs } = inode.attributes;
    time = Math.max(time, mtime);
    const device = inode.device === null ? "" : `${inode.device.major}:${inode.device.minor}`;
    hash.update([inode.number, modeBits(inode), uid, gid, mtime, mtimeNs, inode.size, inode.crc, device].join(" "));
    hash.update(inode.target);
    for (const [name, value] of xattrs ?? []) hash.update(`\0${name}\0${value.length}\0`).update(value);
    for (const [name, child] of inode.children) hash.update(`\0${name}\0${child.number}`);
    hash.update("\n");
  }
  const digest = hash.digest();
  const uuid = Buffer.from(digest.subarray(0, 16));
  uuid[6] = ((uuid[6] as number) & 0x0f) | 0x80; // RFC 9562, version 8: "custom"
  uuid[8] = ((uuid[8] as number) & 0x3f) | 0x80;
  const word = (index: number): number => digest.readUInt32LE(16 + index * 4);
  // The superblock's own times are unsigned 32-bit numbers.
  return { uuid, hashSeed: [word(0), word(1), word(2), word(3)], time: Math.min(time, 0xffffffff) };
}
