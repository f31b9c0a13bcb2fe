/* Constants of the on-disk format. Source: Linux, Documentation/filesystems/ext4/ and fs/ext4/ext4.h. */

export const BLOCK = 4096;
/** A group is what one block of bitmap describes. */
export const BLOCKS_PER_GROUP = 8 * BLOCK;
export const INODE_SIZE = 256;
/** Length of the fields beyond the first 128 bytes that every reader since Linux 2.6.23 knows. */
export const EXTRA_FIELDS = 32;
/** What is left in an inode behind its fields. */
export const XATTR_ROOM = INODE_SIZE - 128 - EXTRA_FIELDS;
export const INODES_PER_BLOCK = BLOCK / INODE_SIZE;
export const DESCRIPTOR_SIZE = 32;
/** Room for group descriptors behind each superblock: 16 blocks describe 2048 groups. */
export const DESCRIPTOR_BLOCKS = 16;
export const MAX_GROUPS = (DESCRIPTOR_BLOCKS * BLOCK) / DESCRIPTOR_SIZE;
export const MAX_INODES_PER_GROUP = 8 * BLOCK;

export const ROOT_INODE = 2;
export const JOURNAL_INODE = 8;
/** The first inode that is not reserved; by custom lost+found. */
export const FIRST_INODE = 11;

export const MAX_NAME = 255;
/** A symbolic link's target and its NUL must fit one block. */
export const MAX_TARGET = BLOCK - 1;
/** Targets shorter than this are kept in the inode itself. */
export const FAST_TARGET = 60;
/** A directory with more links says 1 instead, meaning "many" (dir_nlink). */
export const MAX_LINKS = 65000;
/** The longest run that one extent can name. */
export const MAX_EXTENT = 32768;

export const FILE_TYPES = {
  file: { bits: 0o100000, entry: 1 },
  directory: { bits: 0o040000, entry: 2 },
  character: { bits: 0o020000, entry: 3 },
  block: { bits: 0o060000, entry: 4 },
  fifo: { bits: 0o010000, entry: 5 },
  socket: { bits: 0o140000, entry: 6 },
  symlink: { bits: 0o120000, entry: 7 },
} as const;

export type FileType = keyof typeof FILE_TYPES;

export const INODE_FLAG_EXTENTS = 0x80000;
export const INODE_FLAG_INDEX = 0x1000;

/** A run of blocks of a file: `logical` in the file, `start` on the disk. */
export interface Extent {
  readonly logical: number;
  readonly start: number;
  count: number;
}

/** Where the blocks go. Positions are bytes from the start of the file system; what is never written must read as zeros. */
export interface Ext4Sink {
  write(position: number, data: Uint8Array): Promise<void>;
}
