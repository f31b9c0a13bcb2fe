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

export type Fill = (writer: Ext4Writer) => Promise<void> | void;

export const MEBIBYTE = 1024 * 1024;

export function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-ext4-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes an image of what `fill` puts in, in a file that goes with the test. */
export async function makeImage(
  context: TestContext,
  fill: Fill,
  options: Ext4Options = { freeBytes: 4 * MEBIBYTE },
): Promise<TestImage> {
  const path = join(temporaryFolder(context), "image.ext4");
  return { path, ...(await writeImage(path, fill, options)) };
}

export async function writeImage(path: string, fill: Fill, options: Ext4Options): Promise<Ext4Result> {
  const handle = await open(path, "wx");
  try {
    const file = new SparseFile(handle);
    const writer = new Ext4Writer(file, options);
    await fill(writer);
    const result = await writer.finish();
    await file.finish(result.size);
    return result;
  } finally {
    await handle.close();
  }
}

export interface ToolRun {
  readonly status: number | null;
  readonly output: string;
}

/** `e2fsck -fn`: checks everything, mends nothing; status 0 says that there was nothing to mend. */
export function check(image: { readonly path: string }, options: readonly string[] = []): ToolRun {
  return tool("e2fsck", ["-fn", ...options, image.path]);
}

/** One debugfs request, as text without debugfs's greeting. */
export function debugfs(image: { readonly path: string }, request: string): string {
  const { stdout } = spawnSync(requireTool("debugfs"), ["-R", request, image.path], {
    encoding: "utf8",
    maxBuffer: 256 * MEBIBYTE,
    env: { ...process.env, LC_ALL: "C", DEBUGFS_PAGER: "cat" },
  });
  return stdout;
}

/** The lines "Name: value" that dumpe2fs says of the whole file system. */
export function superblock(image: { readonly path: string }): ReadonlyMap<string, string> {
  const { output } = tool("dumpe2fs", ["-h", image.path]);
  const lines = output.split("\n").map((line) => /^([^:]+):\s*(.*)$/.exec(line));
  return new Map(lines.flatMap((match) => (match === null ? [] : [[match[1] ?? "", match[2] ?? ""] as const])));
}

function tool(name: string, args: readonly string[]): ToolRun {
  const result = spawnSync(requireTool(name), args, {
    encoding: "utf8",
    maxBuffer: 64 * MEBIBYTE,
    env: { ...process.env, LC_ALL: "C" },
  });
  return { status: result.status, output: result.stdout + result.stderr };
}
