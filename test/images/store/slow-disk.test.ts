import assert from "node:assert/strict";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { ImageManager } from "../../../src/images/index.js";
import { content, Origin, scratch } from "../setting.js";

const SYNC_MS = 700;

/** From now on every fsync takes as long as on a disk that is busy. */
async function slowDown(t: TestContext): Promise<void> {
  const handle = await open("/dev/null");
  const prototype = Object.getPrototypeOf(handle) as { sync(): Promise<void> };
  await handle.close();
  t.mock.method(prototype, "sync", () => sleep(SYNC_MS));
}

async function setting(t: TestContext) {
  const origin = await Origin.start(t);
  const files = content();
  const folder = scratch(t);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const manager = (name: string) => new ImageManager({ cacheDir: join(folder, name), registry });
  return { files, folder, manager };
}

test("however long the disk takes to sync, an abort is answered within 100 ms and the event loop goes on", async (t) => {
  const { files, folder, manager } = await setting(t);
  const archive = join(folder, "hello.tar");
  await manager("here").ensureImage("hello");
  await manager("here").exportArchive("hello", archive);
  mkdirSync(join(folder, "adopting", "hello"), { recursive: true });
  writeFileSync(join(folder, "adopting", "hello", "vmlinux.bin"), files.kernel);
  writeFileSync(join(folder, "adopting", "hello", "rootfs.ext4"), files.rootfs);
  await slowDown(t);
  const works: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
    import: (signal) => manager("there").importArchive(archive, { signal }),
    adopt: (signal) => manager("adopting").ensureImage("hello", { signal }),
    export: (signal) => manager("here").exportArchive("hello", join(folder, "again.tar"), { signal }),
  };
  // The sync of the first file, of a folder of the cache, and what comes after.
  for (const afterMs of [SYNC_MS / 2, 1.5 * SYNC_MS, 2.5 * SYNC_MS]) {
    for (const [what, work] of Object.entries(works)) {
      if (what === "export" && afterMs > SYNC_MS) continue;
      const reason = new Error("enough");
      const controller = new AbortController();
      let aborted = Infinity;
      setTimeout(() => {
        aborted = performance.now();
        controller.abort(reason);
      }, afterMs);
      await assert.rejects(work(controller.signal), reason, `${what} after ${afterMs} ms`);
      const took = performance.now() - aborted;
      assert.ok(took < 100, `${what} after ${afterMs} ms: answered after ${took.toFixed(0)} ms`);
    }
  }
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.includes("again") || name.includes("partial")),
    [],
  );
  t.mock.restoreAll();
  for (const name of ["there", "adopting"]) {
    await manager(name).importArchive(archive, { force: true });
    await manager(name).ensureImage("hello", { offline: true, verify: "full" });
  }
});
