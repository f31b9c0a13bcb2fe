import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { defaultImage } from "../../src/build/index.js";
import { packageRoot } from "../../src/host/package.js";
import type { LocalImage } from "../../src/images/index.js";

/** The default image is made once and used by every test that boots a machine. */
export const TEST_IMAGES = join(packageRoot(), "build", "test-images");

export interface Home {
  readonly folder: string;
  /** To be called when all machines should be gone: fails if anything of one is left. */
  close(): Promise<void>;
}

/** Gives a test file a home of its own, from now on and for all that it starts. */
export function ownHome(): Home {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-test-"));
  process.env["SMOLVM_HOME"] = folder;
  process.env["SMOLVM_IMAGE_DIR"] = TEST_IMAGES;
  return {
    folder,
    async close() {
      try {
        assert.deepEqual(await leftOvers(folder), []);
      } finally {
        for (const pid of processesIn(folder)) process.kill(pid, "SIGKILL");
        await rm(folder, { recursive: true, force: true });
      }
    },
  };
}

export function testImage(): Promise<LocalImage> {
  return defaultImage({ cacheDir: TEST_IMAGES });
}

/** Everything that a machine could leave of itself: its folder, processes that run in it, leases on images. */
export async function leftOvers(home: string): Promise<string[]> {
  const machines = join(home, "machines");
  const folders = await readdir(machines).catch(() => []);
  return [
    ...folders.map((folder) => `folder ${folder}`),
    ...processesIn(home).map((pid) => `process ${pid}: ${commandOf(pid)}`),
    ...(await leasesFor(machines)).map((lease) => `lease ${lease}`),
  ];
}

async function leasesFor(machines: string): Promise<string[]> {
  const leases = join(TEST_IMAGES, ".leases");
  const names = await readdir(leases).catch(() => []);
  const texts = await Promise.all(names.map((name) => readFile(join(leases, name), "utf8").catch(() => "")));
  return texts.filter((text) => text.includes(`${machines}/`));
}

/** Processes whose working folder is in a folder: QEMU and its companions run in their machine's. */
export function processesIn(folder: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && workingFolder(pid).startsWith(`${folder}/`));
}

function workingFolder(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return ""; // it has ended
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").slice(0, 100);
  } catch {
    return "ended";
  }
}

/** Waits for something that is to happen. The time only ends a wait for what never will: a loaded host needs a while for anything. */
export async function eventually(
  what: string,
  holds: () => boolean | Promise<boolean>,
  timeoutMs = 30_000,
): Promise<number> {
  const started = performance.now();
  while (!(await holds())) {
    assert.ok(performance.now() - started < timeoutMs, `${what} within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return performance.now() - started;
}
