import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { appendFileSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { test } from "node:test";

import { hashFile } from "../../../src/images/store/hash.js";
import { scratch, sha256 } from "../setting.js";

const MIB = 1024 * 1024;

test("a file is hashed the same on the main thread and in a worker, holes and all", async (t) => {
  const path = join(scratch(t), "file");
  for (const size of [0, 1, 256 * 1024, 256 * 1024 + 1, 5 * MIB, 40 * MIB + 3]) {
    const bytes = Buffer.concat([randomBytes(Math.min(size, 4 * MIB)), Buffer.alloc(Math.max(0, size - 4 * MIB))]);
    writeFileSync(path, bytes.subarray(0, Math.min(size, 4 * MIB)));
    truncateSync(path, size);
    assert.equal((await hashFile(path))?.digest, sha256(bytes), `${size} bytes`);
  }
});

test("what is not a regular file, or is written to meanwhile, has no digest", async (t) => {
  const folder = scratch(t);
  const path = join(folder, "file");
  assert.equal(await hashFile(path), null);
  assert.equal(await hashFile(folder), null);
  writeFileSync(path, "bytes");
  symlinkSync(path, join(folder, "link"));
  assert.equal(await hashFile(join(folder, "link")), null);
  execFileSync("mkfifo", [join(folder, "pipe")]);
  assert.equal(await hashFile(join(folder, "pipe")), null, "a pipe is not waited for");
  mkdirSync(join(folder, "deep"));
  writeFileSync(path, "");
  truncateSync(path, 64 * MIB);
  let digest: unknown;
  // On a busy machine it may be done before the file is written to.
  for (let tries = 0; tries < 20 && digest !== null; tries++) {
    const hashing = hashFile(path);
    setTimeout(() => appendFileSync(path, "x"), 5);
    digest = await hashing;
  }
  assert.equal(digest, null);
});

test("two large files are hashed side by side while the event loop stays free", async (t) => {
  const folder = scratch(t);
  const paths = ["a", "b"].map((name) => join(folder, name));
  for (const path of paths) {
    writeFileSync(path, "");
    truncateSync(path, 256 * MIB);
  }
  const shares: number[] = [];
  for (let round = 0; round < 3; round++) {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    const before = performance.eventLoopUtilization();
    const reports: number[] = [];
    const from = performance.now();
    await Promise.all(paths.map((path) => hashFile(path, { onBytes: (bytes) => reports.push(bytes) })));
    const took = performance.now() - from;
    delay.disable();
    t.diagnostic(`longest pause of the event loop: ${(delay.max / 1e6).toFixed(1)} ms`);
    assert.ok(reports.length >= 8);
    const { active } = performance.eventLoopUtilization(before);
    t.diagnostic(`the event loop was at work for ${active.toFixed(1)} ms of ${took.toFixed(0)} ms`);
    shares.push(active / took);
  }
  // Of a loop that hashes itself it would be all of the time. On a busy machine one of them may have waited for its turn.
  assert.ok(Math.min(...shares) < 0.5, shares.join(", "));
});

test("abort ends the hashing of a large file at once", async (t) => {
  const path = join(scratch(t), "file");
  writeFileSync(path, "");
  truncateSync(path, 64 * 1024 * MIB); // it would take minutes
  const reason = new Error("enough");
  const delays: number[] = [];
  for (let round = 0; round < 3; round++) {
    const controller = new AbortController();
    const hashing = hashFile(path, { signal: controller.signal });
    await new Promise((resolve) => setTimeout(resolve, 60));
    const from = performance.now();
    controller.abort(reason);
    await assert.rejects(hashing, reason);
    delays.push(performance.now() - from);
  }
  t.diagnostic(`answered after ${delays.map((delay) => delay.toFixed(1)).join(", ")} ms`);
  // 100 ms are promised; a machine that does much else at the same time gets more.
  assert.ok(Math.min(...delays) < 2_000, `took ${delays.join(", ")} ms`);
});
