import assert from "node:assert/strict";
import {
  chmodSync,
  linkSync,
  lstatSync,
  readdirSync,
  renameSync,
  rmSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { ImageManager } from "../../../src/images/index.js";
import { ImageStore } from "../../../src/images/store/index.js";
import { Layout } from "../../../src/images/store/layout.js";
import { statOrNull } from "../../../src/images/store/look.js";
import { Stamps } from "../../../src/images/store/stamps.js";
import { content, Origin, scratch } from "../setting.js";

const DIGEST = "d".repeat(64);

async function setting(t: TestContext) {
  const folder = scratch(t);
  const path = join(folder, "file");
  writeFileSync(path, "bytes");
  const layout = new Layout(join(folder, "images"));
  const stamps = new Stamps(layout);
  const stat = statOrNull(path);
  assert.ok(stat && (await stamps.settle(stat)));
  stamps.record(DIGEST, stat, "2026-01-01T00:00:00.000Z");
  const trusted = (which: Stamps = stamps) => {
    const now = statOrNull(path);
    return now !== null && which.trusted(DIGEST, now) !== null;
  };
  return { folder, path, layout, stamps, trusted };
}

test("a stamp vouches for the file that it was made for, in this process and in the next", async (t) => {
  const { layout, path, trusted, stamps } = await setting(t);
  assert.ok(trusted());
  assert.ok(trusted(new Stamps(layout)));
  const stat = statOrNull(path);
  assert.equal(stat && stamps.trusted("e".repeat(64), stat), null, "not for other bytes");
});

test("whatever changes a file ends its stamp, times put back or not", async (t) => {
  const changes: Record<string, (path: string) => void> = {
    "a write": (path) => writeFileSync(path, "other"),
    "a write of the same bytes": (path) => writeFileSync(path, "bytes"),
    "other times": (path) => utimesSync(path, 1, 1),
    "another mode": (path) => chmodSync(path, 0o600),
    "another file in its place": (path) => {
      writeFileSync(`${path}.new`, "bytes");
      renameSync(`${path}.new`, path);
    },
    "a write with the times put back": (path) => {
      const { atime, mtime } = lstatSync(path);
      writeFileSync(path, "bytez");
      utimesSync(path, atime, mtime);
    },
  };
  for (const [what, change] of Object.entries(changes)) {
    const { path, layout, trusted } = await setting(t);
    change(path);
    assert.ok(!trusted(), what);
    assert.ok(!trusted(new Stamps(layout)), what);
  }
});

test("a stamp is carried over a change of names, and not over a change of bytes", async (t) => {
  const { path, stamps, trusted, layout } = await setting(t);
  let carried = stamps.carry([{ digest: DIGEST, path }]);
  linkSync(path, `${path}.link`);
  assert.ok(!trusted(new Stamps(layout)));
  await carried();
  assert.ok(trusted(new Stamps(layout)));
  carried = stamps.carry([{ digest: DIGEST, path }]);
  unlinkSync(`${path}.link`);
  writeFileSync(path, "bytez");
  await carried();
  assert.ok(!trusted());
});

test("a stamp that is torn, foreign or gone costs a hash and nothing else", async (t) => {
  const { layout, trusted } = await setting(t);
  const [name = ""] = readdirSync(layout.stamps).filter((file) => file.startsWith(DIGEST));
  for (const text of ["", "{", "[]", '{"dev":1}', "x".repeat(10_000)]) {
    writeFileSync(join(layout.stamps, name), text);
    assert.ok(!trusted(new Stamps(layout)), text.slice(0, 20));
  }
  rmSync(layout.stamps, { recursive: true });
  assert.ok(!trusted(new Stamps(layout)));
});

test("no installation, removal or lease of one image makes another one be read again", async (t) => {
  const origin = await Origin.start(t);
  const files = content();
  const cacheDir = join(scratch(t), "images");
  const registry = {
    one: origin.publish("one", files, { pinned: true }),
    two: origin.publish("two", files, { pinned: true }),
  };
  const manager = new ImageManager({ cacheDir, registry });
  const image = await manager.ensureImage("one");
  const stamped = () => new ImageStore(cacheDir).openStamped("one") !== null;
  assert.ok(stamped(), "an image that was just installed is not read again");
  await manager.ensureImage("two");
  assert.ok(stamped(), "after another name for the same content");
  const lease = await new ImageStore(cacheDir).lease([image.rootfsPath], { vmId: "vm-1" });
  assert.ok(stamped(), "after a lease");
  await lease.release();
  await manager.ensureImage("two", { verify: "full" });
  assert.ok(stamped(), "after a full verification");
  await manager.remove("two");
  assert.ok(stamped(), "after the other name went");
});

test("a cached image is opened without reading it again, in a fraction of a millisecond from then on", async (t) => {
  const origin = await Origin.start(t);
  const cacheDir = join(scratch(t), "images");
  const registry = { hello: origin.publish("hello", content(1_000, 64_000_000), { pinned: true }) };
  await new ImageManager({ cacheDir, registry }).ensureImage("hello");
  const times: number[] = [];
  const manager = new ImageManager({ cacheDir, registry });
  for (let round = 0; round < 200; round++) {
    const from = performance.now();
    await manager.ensureImage("hello");
    times.push(performance.now() - from);
  }
  const [first = 0, ...later] = times;
  const median = later.sort((a, b) => a - b)[100] ?? 0;
  t.diagnostic(`first ${first.toFixed(2)} ms, then ${median.toFixed(3)} ms`);
  assert.ok(median < 5, `${median} ms`); // to read it would take ten times as long
});
