import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { ImageManager } from "../../src/images/index.js";
import { content, type Content, Origin, scratch } from "./setting.js";

/** What another tool, which knows nothing of smolvm, leaves in the cache. */
function putByOthers(cacheDir: string, name: string, files: Partial<Content>): void {
  const folder = join(cacheDir, name);
  mkdirSync(folder, { recursive: true });
  if (files.kernel) writeFileSync(join(folder, "vmlinux.bin"), files.kernel);
  if (files.rootfs) writeFileSync(join(folder, "rootfs.ext4"), files.rootfs);
}

async function setting(t: TestContext, pinned: boolean) {
  const origin = await Origin.start(t);
  const files = content();
  const cacheDir = join(scratch(t), "images");
  const registry = { foreign: origin.publish("foreign", files, { pinned }) };
  return { origin, files, cacheDir, registry, manager: new ImageManager({ cacheDir, registry }) };
}

test("files of another tool that have the pinned digests are adopted without the network", async (t) => {
  const { origin, files, cacheDir, manager } = await setting(t, true);
  putByOthers(cacheDir, "foreign", files);
  assert.equal(await manager.isCached("foreign"), true);
  const image = await manager.ensureImage("foreign", { offline: true });
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  assert.deepEqual(origin.requests, []);
  assert.ok(existsSync(join(cacheDir, "foreign", "image.json")));
  assert.equal((await manager.inspect("foreign")).origin, "adopted");
  assert.equal(readdirSync(join(cacheDir, ".blobs", "sha256")).length, 2);
});

test("files of another tool that are wrong are set aside, and only those are fetched", async (t) => {
  const { origin, files, cacheDir, manager } = await setting(t, true);
  const wrong = content().rootfs;
  putByOthers(cacheDir, "foreign", { kernel: files.kernel, rootfs: wrong });
  const report = await manager.verify("foreign");
  assert.deepEqual(
    report.assets.map(({ ok }) => ok),
    [true, false],
  );
  const image = await manager.ensureImage("foreign");
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  assert.deepEqual(origin.requests, ["/foreign/rootfs.ext4"]);
  const [aside = ""] = readdirSync(join(cacheDir, ".damaged"));
  assert.ok(readFileSync(join(cacheDir, ".damaged", aside)).equals(wrong));
});

test("files of another tool for a source without digests are used as they are", async (t) => {
  const { origin, cacheDir, manager } = await setting(t, false);
  const own = content();
  putByOthers(cacheDir, "foreign", own);
  const image = await manager.ensureImage("foreign");
  assert.ok(readFileSync(image.rootfsPath).equals(own.rootfs));
  assert.deepEqual(origin.requests, []);
  assert.deepEqual(await manager.ensureImage("foreign", { verify: "full", offline: true }), image);
});

test("one file of another tool is kept and the missing one is fetched", async (t) => {
  const { origin, files, cacheDir, manager } = await setting(t, true);
  putByOthers(cacheDir, "foreign", { kernel: files.kernel });
  assert.equal(await manager.isCached("foreign"), false);
  await manager.ensureImage("foreign");
  assert.deepEqual(origin.requests, ["/foreign/rootfs.ext4"]);
});

test("an image.json that can't be relied on makes the files beside it foreign", async (t) => {
  const { origin, files, cacheDir, manager } = await setting(t, true);
  await manager.ensureImage("foreign");
  const requests = origin.requests.length;
  for (const text of ["", "{", "null", "[]", '{"format":2}', "\0".repeat(4096), "x".repeat(300_000)]) {
    writeFileSync(join(cacheDir, "foreign", "image.json"), text);
    const image = await manager.ensureImage("foreign");
    assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  }
  assert.equal(origin.requests.length, requests);
});

test("a name that is in no registry is not adopted", async (t) => {
  const { files, cacheDir, manager } = await setting(t, true);
  putByOthers(cacheDir, "stranger", files);
  assert.equal(await manager.isCached("stranger"), false);
  await assert.rejects(manager.ensureImage("stranger"), { code: "IMAGE_UNKNOWN" });
});
