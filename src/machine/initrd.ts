import { chmod, readFile, writeFile } from "node:fs/promises";

import { writeCpio } from "../build/cpio.js";
import { agentPath, type GuestArch } from "../guest/index.js";

/**
 * Writes the initrd that a machine boots: the image's own, then ours, whose `/init` is the guest agent. The kernel unpacks one
 * archive after the other; each begins at a multiple of four bytes, and zeros between them are passed over.
 */
export async function writeInitrd(path: string, imageInitrd: string | null, arch: GuestArch): Promise<void> {
  const [image, agent] = await Promise.all([
    imageInitrd === null ? Buffer.alloc(0) : readFile(imageInitrd),
    readFile(agentPath(arch)),
  ]);
  const padding = Buffer.alloc((4 - (image.length % 4)) % 4);
  const folders = ["dev", "proc", "sys", "newroot"];
  const ours = writeCpio([
    ...folders.map((folder) => ({ path: folder, type: "directory" as const, mode: 0o755 })),
    // The kernel opens it for the first process before anything is mounted.
    { path: "dev/console", type: "character", mode: 0o600, device: { major: 5, minor: 1 } },
    { path: "init", type: "file", mode: 0o755, data: agent },
  ]);
  await writeFile(path, Buffer.concat([image, padding, ours]));
  // Readable for all: the folder keeps others out, and QEMU opens it as another user.
  await chmod(path, 0o644);
}
