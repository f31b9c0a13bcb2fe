import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { ImageStore } from "../../../src/images/store/index.js";
import { Blobs } from "../../../src/images/store/blobs.js";
import { commitImage, type Rooms, underCommitLock } from "../../../src/images/store/commit.js";
import { Layout } from "../../../src/images/store/layout.js";
import { Leases } from "../../../src/images/store/leases.js";
import { prune } from "../../../src/images/store/prune.js";
import { takeAway } from "../../../src/images/store/remove.js";
import { Stamps } from "../../../src/images/store/stamps.js";
import { TemporaryFiles } from "../../../src/images/store/temporary.js";
import { scratch } from "../setting.js";
import { ownCache } from "./setting.js";

function setting(t: TestContext) {
  const cacheDir = join(scratch(t), "images");
  const layout = new Layout(cacheDir);
  const stamps = new Stamps(layout);
  const rooms: Rooms = {
    layout,
    stamps,
    blobs: new Blobs(layout, stamps),
    temporary: new TemporaryFiles(layout),
  };
  const store = new ImageStore(cacheDir);
  const install = async (text: string) => {
    const file = async (name: string) => {
      const path = await store.temporaryFile(name);
      writeFileSync(path, `${name} ${text}`);
      return { path };
    };
    const assets = { kernel: await file("kernel"), rootfs: await file("rootfs") };
    return store.install("mine", { assets, origin: { kind: "built" } });
  };
  return { cacheDir, layout, rooms, leases: new Leases(layout), store, install };
}

/** What others do who take a process that was stopped for long for dead. */
function takeOver(layout: Layout): void {
  const lock = join(layout.locks, "commit");
  for (const file of readdirSync(lock)) rmSync(join(lock, file));
}

/** A lock that others have taken over by now. */
const gone = {
  assert: (): void => {
    throw new Error("the lock was lost");
  },
};
const options = { held: gone, signal: undefined, adopted: new Set<string>() };

test("a change whose lock was taken over is made once more, from its beginning", async (t) => {
  const { rooms, layout } = setting(t);
  const steps: string[] = [];
  const answer = await underCommitLock(rooms, (held) => {
    steps.push("begin");
    if (steps.length === 1) takeOver(layout);
    held.assert();
    steps.push("done");
    return "answer";
  });
  assert.equal(answer, "answer");
  assert.deepEqual(steps, ["begin", "begin", "done"]);
  assert.ok(!existsSync(join(layout.locks, "commit")));
});

test("a change that fails with its lock in hand is not made again", async (t) => {
  const { rooms } = setting(t);
  let runs = 0;
  await assert.rejects(
    underCommitLock(rooms, () => {
      runs += 1;
      throw new Error("no");
    }),
    /^Error: no$/,
  );
  assert.equal(runs, 1);
});

test("without its lock nothing is removed, and no image takes a name", async (t) => {
  const { rooms, leases, store, install, cacheDir, layout } = setting(t);
  const image = await install("one");
  const orphan = join(layout.blobs, "f".repeat(64));
  writeFileSync(orphan, "orphan");
  assert.throws(() => prune(rooms, leases, gone, false), /was lost/);
  assert.ok(existsSync(orphan));
  await assert.rejects(takeAway(rooms, leases, gone, "mine"), /was lost/);
  const record = await store.read("mine");
  assert.ok(record);
  await assert.rejects(commitImage(rooms, { ...record, name: "other" }, options), /was lost/);
  const next = { ...record, assets: { ...record.assets, kernel: record.assets.rootfs } };
  await assert.rejects(commitImage(rooms, next, options), /was lost/);
  assert.equal(readFileSync(image.kernelPath, "utf8"), "kernel one");
  assert.ok(!existsSync(join(cacheDir, "other")));
});

test("what one process puts together is not taken from it by another one's commit", async (t) => {
  const { rooms, store, install } = setting(t);
  await install("one");
  const record = await store.read("mine");
  assert.ok(record);
  const staged = await store.temporaryFile("mine");
  writeFileSync(staged, "half of an image");
  await underCommitLock(rooms, (held) => commitImage(rooms, record, { ...options, held }));
  assert.equal(readFileSync(staged, "utf8"), "half of an image");
});

test("a download whose lock was taken over in its last moment is not lost to the caller", async (t) => {
  const { cacheDir, manager, files } = await ownCache(t);
  const { locks, partials } = new Layout(cacheDir);
  let taken: string | undefined;
  const image = await manager.ensureImage("hello", {
    onProgress: ({ phase, asset }) => {
      if (taken !== undefined || asset !== "rootfs" || phase !== "verify") return;
      // What another process does that takes over from one that was stopped: the lock goes, and the file begins anew.
      for (const key of readdirSync(locks)) {
        if (!existsSync(join(partials, key)) || statSync(join(partials, key)).size < files.rootfs.length) continue;
        taken = key;
        rmSync(join(locks, key), { recursive: true });
        rmSync(join(partials, key));
      }
    },
  });
  assert.ok(taken, "it was taken");
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
});
