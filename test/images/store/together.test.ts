import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ImageManager } from "../../../src/images/index.js";
import { startEnsure } from "../children/run.js";
import { content, Origin, scratch } from "../setting.js";

test("many processes and many calls that want one image at once cause one download", async (t) => {
  const origin = await Origin.start(t);
  const files = content(200_000, 1_500_000);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const cacheDir = join(scratch(t), "images");
  origin.delayMs = 700; // so that all of them are there before the first byte comes
  const children = Array.from({ length: 8 }, () =>
    startEnsure({ cacheDir, registries: [registry], name: "hello", forever: false }),
  );
  const managers = [new ImageManager({ cacheDir, registry }), new ImageManager({ cacheDir, registry })];
  await Promise.all(managers.flatMap((manager) => Array.from({ length: 8 }, () => manager.ensureImage("hello"))));
  for (const child of children) assert.equal(await child.ended, 0, child.errors());
  const size = files.kernel.length + files.rootfs.length;
  t.diagnostic(`8 processes and 16 calls: ${origin.sentBytes} bytes sent for ${size} bytes of image`);
  assert.equal(origin.sentBytes, size);
  assert.ok(readFileSync(join(cacheDir, "hello", "rootfs.ext4")).equals(files.rootfs));
});

test("an unverified source that two images share is downloaded once too", async (t) => {
  const origin = await Origin.start(t);
  const source = origin.publish("one", content(), { pinned: false });
  const registry = { one: source, two: { ...source, name: "two" } };
  const manager = new ImageManager({ cacheDir: join(scratch(t), "images"), registry });
  origin.delayMs = 20;
  await Promise.all([manager.ensureImage("one"), manager.ensureImage("two")]);
  assert.equal(origin.requests.length, 2);
});

test("when the process that downloads is killed, one that waited goes on from where it was", async (t) => {
  const origin = await Origin.start(t);
  const files = content(1_000, 3_000_000);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const cacheDir = join(scratch(t), "images");
  const order = { cacheDir, registries: [registry], name: "hello", forever: false };
  origin.pieceDelayMs = 4;
  const first = startEnsure(order);
  while (origin.sentBytes < 1_600_000) await new Promise((resolve) => setTimeout(resolve, 10));
  const second = startEnsure(order);
  await second.ready;
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(origin.fromStart("/hello/rootfs.ext4"), 1, "the second waits");
  first.process.kill("SIGKILL");
  await first.ended;
  origin.pieceDelayMs = 0;
  assert.equal(await second.ended, 0, second.errors());
  assert.ok(readFileSync(join(cacheDir, "hello", "rootfs.ext4")).equals(files.rootfs));
  const twice = origin.sentBytes - files.kernel.length - files.rootfs.length;
  t.diagnostic(`${twice} bytes of ${files.rootfs.length} were sent twice`);
  assert.ok(twice <= 1024 * 1024 + 512 * 1024, `${twice} bytes were sent twice`);
});

test("a call that waits for another process's download tells how far that one is", async (t) => {
  const origin = await Origin.start(t);
  const files = content(1_000, 3_000_000);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const cacheDir = join(scratch(t), "images");
  origin.pieceDelayMs = 8;
  const first = startEnsure({ cacheDir, registries: [registry], name: "hello", forever: false });
  while (origin.sentBytes < 800_000) await new Promise((resolve) => setTimeout(resolve, 10));
  const seen: number[] = [];
  await new ImageManager({ cacheDir, registry }).ensureImage("hello", {
    onProgress: ({ asset, phase, bytes, total }) => {
      if (asset !== "rootfs" || phase !== "download") return;
      assert.equal(total, files.rootfs.length);
      seen.push(bytes);
    },
  });
  assert.equal(await first.ended, 0, first.errors());
  assert.equal(origin.fromStart("/hello/rootfs.ext4"), 1, "only the other process downloads");
  assert.ok(seen.length >= 2, `told ${seen.length} times`);
  assert.ok((seen.at(-1) ?? 0) > (seen[0] ?? 0), `it grows: ${seen.join(", ")}`);
});

test("a caller that gives up hands the download to one that waits", async (t) => {
  const origin = await Origin.start(t);
  const files = content(1_000, 1_000_000);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const manager = new ImageManager({ cacheDir: join(scratch(t), "images"), registry });
  origin.pieceDelayMs = 5;
  const controller = new AbortController();
  const impatient = manager.ensureImage("hello", { signal: controller.signal });
  const patient = manager.ensureImage("hello");
  setTimeout(() => controller.abort(), 60);
  await assert.rejects(impatient, { name: "AbortError" });
  origin.pieceDelayMs = 0;
  assert.ok(readFileSync((await patient).rootfsPath).equals(files.rootfs));
});

test("two processes that replace one image by different ones leave one of them whole", async (t) => {
  const origin = await Origin.start(t);
  const cacheDir = join(scratch(t), "images");
  const versions = [content(), content()];
  const registries = versions.map((files, index) => ({
    hello: origin.publish("hello", files, { pinned: true, folder: `v${index}` }),
  }));
  for (let round = 0; round < 5; round++) {
    const children = registries.map((registry) =>
      startEnsure({ cacheDir, registries: [registry], name: "hello", forever: false }),
    );
    for (const child of children) assert.equal(await child.ended, 0, child.errors());
    const kernel = readFileSync(join(cacheDir, "hello", "vmlinux.bin"));
    const rootfs = readFileSync(join(cacheDir, "hello", "rootfs.ext4"));
    const winner = versions.findIndex((files) => files.kernel.equals(kernel));
    assert.ok(versions[winner]?.rootfs.equals(rootfs), "kernel and rootfs are of one version");
  }
});
