import assert from "node:assert/strict";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { ImageManager } from "../../../src/images/index.js";
import { content, Origin, scratch } from "../setting.js";

/** A disk that is busy: the syncs of what is asked for take until it is let go. */
class BusyDisk {
  /** How many syncs it still takes at once. */
  quick = 0;
  held = 0;
  #free = (): void => undefined;
  #freed = Promise.resolve();

  static async put(t: TestContext): Promise<BusyDisk> {
    const disk = new BusyDisk();
    const handle = await open("/dev/null");
    const prototype = Object.getPrototypeOf(handle) as { sync(): Promise<void> };
    await handle.close();
    t.mock.method(prototype, "sync", () => disk.#sync());
    return disk;
  }

  holdAfter(syncs: number): void {
    this.quick = syncs;
    this.held = 0;
    this.#freed = new Promise((resolve) => (this.#free = resolve));
  }

  letGo(): void {
    this.#free();
  }

  async #sync(): Promise<void> {
    if (this.quick-- > 0) return;
    this.held += 1;
    await this.#freed;
  }
}

async function setting(t: TestContext) {
  const origin = await Origin.start(t);
  const files = content();
  const folder = scratch(t);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const manager = (name: string) => new ImageManager({ cacheDir: join(folder, name), registry });
  return { files, folder, manager };
}

test("however long the disk takes to sync, an abort is answered at once and the event loop goes on", async (t) => {
  const { files, folder, manager } = await setting(t);
  const archive = join(folder, "hello.tar");
  await manager("here").ensureImage("hello");
  await manager("here").exportArchive("hello", archive);
  mkdirSync(join(folder, "adopting", "hello"), { recursive: true });
  writeFileSync(join(folder, "adopting", "hello", "vmlinux.bin"), files.kernel);
  writeFileSync(join(folder, "adopting", "hello", "rootfs.ext4"), files.rootfs);
  const disk = await BusyDisk.put(t);
  const works: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
    import: (signal) => manager("there").importArchive(archive, { signal }),
    adopt: (signal) => manager("adopting").ensureImage("hello", { signal }),
    export: (signal) => manager("here").exportArchive("hello", join(folder, "again.tar"), { signal }),
  };
  let slowest = 0;
  // The sync of the first file, of a folder of the cache, and what comes after.
  for (const syncs of [0, 1, 2, 3]) {
    for (const [what, work] of Object.entries(works)) {
      if (what === "export" && syncs > 0) continue;
      const where = `${what} in sync ${syncs}`;
      const reason = new Error("enough");
      const controller = new AbortController();
      disk.holdAfter(syncs);
      const working = assert.rejects(work(controller.signal), reason, where);
      const late = setTimeout(() => disk.letGo(), 30_000);
      while (disk.held === 0) await Promise.race([sleep(5), working]);
      const aborted = performance.now();
      controller.abort(reason);
      // Had it waited for the disk, it would have waited until that is let go.
      await working;
      const took = performance.now() - aborted;
      assert.ok(took < 20_000, `${where}: answered after ${took.toFixed(0)} ms`);
      slowest = Math.max(slowest, took);
      clearTimeout(late);
      disk.letGo();
    }
  }
  t.diagnostic(`the slowest answer after ${slowest.toFixed(1)} ms`);
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
