import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

import { type Ext4Options, type Ext4Result, Ext4Writer } from "../../../src/build/ext4/index.js";
import { SparseFile } from "../../../src/build/sparse-file.js";
import { requireTool } from "../../../src/host/tools.js";

export interface TestImage extends Ext4Result {
  readonly path: string;
}

export function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-ext4-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes an image of what `fill` puts in, in a file that goes with the test. */
export async function makeImage(
  context: TestContext,
  fill: (writer: Ext4Writer) => Promise<void> | void,
  options: Ext4Options = { freeBytes: 4 * 1024 * 1024 },
): Promise<TestImage> {
  const path = join(temporaryFolder(context), "image.ext4");
  const handle = await open(path, "w");
  try {
    const file = new SparseFile(handle);
    const writer = new Ext4Writer(file, options);
    await fill(writer);
    const result = await writer.finish();
    await file.finish(result.size);
    return { ...result, path };
  } finally {
    await handle.close();
  }
}

export interface ToolRun {
  readonly status: number | null;
  readonly output: string;
}

/** `e2fsck -fn`: checks everything, mends nothing; status 0 says that there was nothing to mend. */
export function check(image: TestImage): ToolRun {
  return tool("e2fsck", ["-fn", image.path]);
}

/** One debugfs request, as text. */
export function debugfs(image: TestImage, request: string): string {
  return tool("debugfs", ["-R", request, image.path]).output;
}

export function dumpe2fs(image: TestImage): string {
  return tool("dumpe2fs", ["-h", image.path]).output;
}

function tool(name: string, args: readonly string[]): ToolRun {
  const result = spawnSync(requireTool(name), args, {
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
    env: { ...process.env, LC_ALL: "C" },
  });
  return { status: result.status, output: result.stdout + result.stderr };
}
