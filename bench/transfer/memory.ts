import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

/**
 * On a virtual machine the first use of a page after the host took it back costs more than everything else here. Using as
 * many pages as a run will take, just before it, makes the runs comparable.
 */
export function touchMemory(bytes: number): void {
  const path = join("/dev/shm", `smolvm-bench-${process.pid}`);
  const fd = openSync(path, "w");
  try {
    const block = Buffer.alloc(4 * 1024 * 1024, 1);
    for (let at = 0; at < bytes; at += block.length) writeSync(fd, block);
    ftruncateSync(fd, 0);
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}
