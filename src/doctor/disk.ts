import { link, mkdtemp, open, rm, statfs } from "node:fs/promises";
import { join } from "node:path";

import { makeFolder } from "../host/folder.js";
import { imageDir, machinesDir } from "../host/home.js";
import type { Check, Finding } from "./check.js";

const MEBIBYTE = 1024 * 1024;
/** The default image takes less than this while it is made. */
const ENOUGH_TO_WORK = 512 * MEBIBYTE;
const ENOUGH_FOR_LONG = 4096 * MEBIBYTE;

/** Files can be written, synced and linked where images and machines are kept, and there is room for more. */
export const disk: readonly Check[] = [
  { name: "image cache folder", run: () => tryFolder(imageDir(), "SMOLVM_IMAGE_DIR") },
  { name: "machines folder", run: () => tryFolder(machinesDir(), "SMOLVM_HOME") },
];

async function tryFolder(folder: string, variable: string): Promise<Finding> {
  const elsewhere = `Give the folder to this user, or set ${variable} to another one.`;
  try {
    await writeThere(folder);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { status: "failure", detail: `${folder} can't be used: ${reason}.`, mend: { say: elsewhere } };
  }
  const { bavail, bsize } = await statfs(folder);
  const free = bavail * bsize;
  const detail = `${folder}, ${(free / MEBIBYTE / 1024).toFixed(1)} GiB free`;
  if (free >= ENOUGH_FOR_LONG) return { status: "ok", detail };
  return {
    status: free >= ENOUGH_TO_WORK ? "warning" : "failure",
    detail: `${detail}: that is little.`,
    mend: { say: `Run: smolvm image prune   or set ${variable} to a folder on another disk.` },
  };
}

async function writeThere(folder: string): Promise<void> {
  makeFolder(folder, { mode: 0o700 });
  const trial = await mkdtemp(join(folder, ".doctor-"));
  try {
    const file = await open(join(trial, "file"), "wx");
    try {
      await file.writeFile(Buffer.alloc(MEBIBYTE, 1));
      await file.sync();
    } finally {
      await file.close();
    }
    await link(join(trial, "file"), join(trial, "link"));
  } finally {
    await rm(trial, { recursive: true, force: true });
  }
}
