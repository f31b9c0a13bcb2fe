import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { processIdentity } from "../../src/host/process.js";
import { openOwnLane } from "../../src/machine/lanes.js";
import { machineFiles } from "../../src/machine/state.js";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-lanes-"));
});
after(() => rm(folder, { recursive: true, force: true }));

test("a lane that did not come about is free again, at whatever moment the wait for it ended", async () => {
  const files = machineFiles(folder);
  await mkdir(files.sockets);
  for (let moment = 0; moment < 12; moment++) {
    const controller = new AbortController();
    const reason = new Error("no time");
    setTimeout(() => controller.abort(reason), 10 + moment);
    await assert.rejects(openOwnLane(files, { timeoutMs: 5000, signal: controller.signal }), reason);
    assert.deepEqual(await readdir(files.lanes), []);
  }
});

test("who had a lane of an earlier run of the machine does not keep it", async () => {
  const files = machineFiles(folder);
  const own = processIdentity();
  assert.ok(own);
  const lane = join(files.lanes, "0");
  await mkdir(lane, { recursive: true });
  await writeFile(join(lane, "a.holds"), "");
  await writeFile(join(lane, "a"), JSON.stringify({ ...own, scope: { ...own.scope, namespace: "gone" } }));
  const reason = new Error("QEMU has ended");
  await assert.rejects(openOwnLane(files, { timeoutMs: 5000, signal: AbortSignal.timeout(50) }), {
    name: "TimeoutError",
  });
  await assert.rejects(openOwnLane(files, { timeoutMs: 5000, signal: AbortSignal.abort(reason) }), reason);
});
