import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { OperationTimeoutError } from "../../src/errors.js";
import { claimMachineLock } from "../../src/machine/claim.js";
import { machineFiles } from "../../src/machine/state.js";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-claim-"));
});
after(() => rm(folder, { recursive: true, force: true }));

test("who changes a machine keeps others waiting until it is done", async () => {
  const path = join(folder, "one");
  const claim = await claimMachineLock(path, 30_000);
  await assert.rejects(claimMachineLock(path, 50), OperationTimeoutError);
  setTimeout(() => claim.release(), 100);
  const next = await claimMachineLock(path, 30_000);
  next.release();
  assert.deepEqual(await readdir(folder), []);
});

test("waiting for it ends with the caller's signal", async () => {
  const path = join(folder, "waited");
  const claim = await claimMachineLock(path, 30_000);
  const reason = new Error("no time");
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason), 30);
  await assert.rejects(claimMachineLock(path, 30_000, controller.signal), (error) => error === reason);
  claim.release();
});

test("waiting to change a machine that is gone does not make it again", async () => {
  const machine = join(folder, "gone");
  const claim = await claimMachineLock(machineFiles(machine).lock, 30_000);
  assert.ok(!existsSync(machine));
  claim.release();
  assert.deepEqual(await readdir(folder), []);
});
