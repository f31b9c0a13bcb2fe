import { BLOCK } from "./format.js";

/** Blocks of a journal for a file system of that many blocks: the steps of mke2fs (ext2fs_default_journal_size). */
export function journalBlocks(fileSystemBlocks: number): number {
  if (fileSystemBlocks < 32768) return 1024;
  if (fileSystemBlocks < 256 * 1024) return 4096;
  if (fileSystemBlocks < 512 * 1024) return 8192;
  if (fileSystemBlocks < 4096 * 1024) return 16384;
  return 32768;
}

/** The first block of an empty journal; the rest may be zeros. Source: Documentation/filesystems/ext4/journal.rst. */
export function encodeJournalSuperblock(blocks: number, uuid: Buffer): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  bytes.writeUInt32BE(0xc03b3998, 0x00);
  bytes.writeUInt32BE(4, 0x04); // superblock, version 2
  bytes.writeUInt32BE(BLOCK, 0x0c);
  bytes.writeUInt32BE(blocks, 0x10);
  bytes.writeUInt32BE(1, 0x14); // first block of the log
  bytes.writeUInt32BE(1, 0x18); // first transaction; the log's start stays 0, which means empty
  uuid.copy(bytes, 0x30);
  bytes.writeUInt32BE(1, 0x40); // one file system uses it
  return bytes;
}
