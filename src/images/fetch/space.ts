import { statfsSync } from "node:fs";
import { dirname } from "node:path";

import { ImageError } from "../../errors.js";

/** An IMAGE_NO_SPACE error if the file system of `path` has less than `bytes` left. */
export function requireSpace(path: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(dirname(path));
  const available = bavail * bsize;
  if (bytes <= available) return;
  throw new ImageError(
    "IMAGE_NO_SPACE",
    `'${dirname(path)}' has ${mib(available)} MiB free; ${mib(bytes)} MiB more are needed.`,
    {
      hint: "Free some space (smolvm image prune), or choose another folder with SMOLVM_IMAGE_DIR.",
      details: { path, needed: bytes, available },
    },
  );
}

function mib(bytes: number): number {
  return Math.ceil(bytes / (1024 * 1024));
}
