import { open } from "node:fs/promises";

import { ImageError } from "../errors.js";

export type RootfsType = "ext4" | "squashfs" | "erofs" | "xfs" | "btrfs";

interface Signature {
  readonly type: RootfsType;
  readonly offset: number;
  readonly bytes: Buffer;
}

/** Where each file system keeps its magic number, from the kernel's include/uapi/linux/magic.h and each one's superblock. */
const SIGNATURES: readonly Signature[] = [
  // ext2 and ext3 as well: the kernel's ext4 mounts all three.
  { type: "ext4", offset: 1024 + 56, bytes: Buffer.from([0x53, 0xef]) },
  { type: "squashfs", offset: 0, bytes: Buffer.from("hsqs") },
  { type: "erofs", offset: 1024, bytes: Buffer.from([0xe2, 0xe1, 0xf5, 0xe0]) },
  { type: "xfs", offset: 0, bytes: Buffer.from("XFSB") },
  { type: "btrfs", offset: 64 * 1024 + 64, bytes: Buffer.from("_BHRfS_M") },
];

/**
 * Says which file system a root image holds.
 *
 * @throws ImageError IMAGE_INVALID when it is none that a machine can mount.
 */
export async function inspectRootfs(path: string): Promise<{ readonly type: RootfsType; readonly size: number }> {
  const file = await open(path, "r");
  try {
    for (const { type, offset, bytes } of SIGNATURES) {
      const found = Buffer.alloc(bytes.length);
      const { bytesRead } = await file.read(found, 0, found.length, offset);
      if (bytesRead === found.length && found.equals(bytes)) return { type, size: (await file.stat()).size };
    }
    throw new ImageError(
      "IMAGE_INVALID",
      `'${path}' can't be used as a root file system: it is none of ext2/3/4, squashfs, erofs, xfs and btrfs.`,
      {
        hint: "Give the image of a file system itself, without a partition table and not compressed.",
        details: { path, asset: "rootfs" },
      },
    );
  } finally {
    await file.close();
  }
}
