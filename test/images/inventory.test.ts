import assert from "node:assert/strict";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ImageManager } from "../../src/images/index.js";
import { ImageStore } from "../../src/images/store/index.js";
import { content, Origin, scratch, sha256 } from "./setting.js";

test("the list has the images of the registry and of the cache, with what they occupy and seem to hold", async (t) => {
  const origin = await Origin.start(t);
  const files = content();
  const cacheDir = join(scratch(t), "images");
  const registry = {
    hello: origin.publish("hello", files, { pinned: true }),
    absent: origin.publish("absent", files, { pinned: true }),
  };
  const manager = new ImageManager({ cacheDir, registry });
  await manager.ensureImage("hello");
  await build(cacheDir, "mine");
  for (const stranger of [" white space", "control\u202echaracter", ".hidden"]) mkdirSync(join(cacheDir, stranger));
  const [absent, hello, mine] = await manager.list();
  assert.deepEqual(absent, {
    name: "absent",
    cached: false,
    origin: "registry",
    source: origin.url("/absent/rootfs.ext4"),
    sizeBytes: null,
    allocatedBytes: null,
    verifiedAt: null,
  });
  assert.equal(hello?.cached, true);
  assert.equal(hello.sizeBytes, files.kernel.length + files.rootfs.length);
  assert.ok(hello.allocatedBytes !== null && hello.allocatedBytes < hello.sizeBytes, "the hole is a hole");
  assert.match(hello.verifiedAt ?? "", /^\d{4}-\d\d-\d\dT/);
  assert.equal(mine?.origin, "built");
  const { assets, ...details } = await manager.inspect("hello");
  assert.equal(details.path, join(cacheDir, "hello"));
  assert.deepEqual(
    assets.map(({ kind, contentDigest, digest }) => ({ kind, contentDigest, digest })),
    [
      { kind: "kernel", contentDigest: sha256(files.kernel), digest: sha256(files.kernel) },
      { kind: "rootfs", contentDigest: sha256(files.rootfs), digest: sha256(files.rootfs) },
    ],
  );
  await assert.rejects(manager.inspect("nope"), { code: "IMAGE_UNKNOWN" });
  await assert.rejects(manager.verify("absent"), { code: "IMAGE_NOT_CACHED" });
});

test("an image that was built here is known by its name, and can't be put right by downloading", async (t) => {
  for (const [name, hint] of [
    ["mine", /build it again/],
    ["default-arm64", /smolvm image pull default-arm64$/],
  ] as const) {
    const cacheDir = join(scratch(t), "images");
    const image = await build(cacheDir, name);
    const manager = new ImageManager({ cacheDir });
    assert.deepEqual(await manager.ensureImage(name), image);
    assert.equal(await manager.isCached(name), true);
    assert.deepEqual((await manager.verify(name)).ok, true);
    await new ImageStore(cacheDir).prune({ dryRun: false });
    writeFileSync(image.kernelPath, "not the kernel");
    await assert.rejects(manager.ensureImage(name), {
      code: "IMAGE_CHECKSUM_MISMATCH",
      message: `The kernel of image '${name}' is damaged or missing.`,
      hint,
    });
    assert.deepEqual(await build(cacheDir, name), image);
    assert.deepEqual(await manager.ensureImage(name), image);
  }
});

async function build(cacheDir: string, name: string) {
  const store = new ImageStore(cacheDir);
  const make = async (hint: string) => {
    const path = await store.temporaryFile(hint);
    writeFileSync(path, `the ${hint} of ${name}`);
    return { path };
  };
  const assets = { kernel: await make("kernel"), rootfs: await make("rootfs") };
  return store.install(name, { assets, bootArgs: "quiet", origin: { kind: "built", details: { suite: "bookworm" } } });
}

test("a list does not fail with one image that this user may not look at, or that is removed meanwhile", async (t) => {
  const origin = await Origin.start(t);
  const folder = scratch(t);
  const cacheDir = join(folder, "images");
  const registry = {
    hello: origin.publish("hello", content(), { pinned: true }),
    secret: origin.publish("secret", content(), { pinned: true }),
  };
  const maker = new ImageManager({ cacheDir, registry });
  await maker.ensureImage("hello");
  await maker.ensureImage("secret");
  chmodSync(folder, 0o755);
  chmodSync(join(cacheDir, "secret"), 0);
  const manager = new ImageManager({ cacheDir, registry: { hello: registry.hello } });
  const isRoot = process.geteuid?.() === 0;
  try {
    if (isRoot) process.seteuid?.(65534);
    const listed = (await manager.list()).map(({ name, cached, origin: from }) => [name, cached, from]);
    assert.deepEqual(listed, [
      ["hello", true, "registry"],
      ["secret", false, "unreadable"],
    ]);
  } finally {
    if (isRoot) process.seteuid?.(0);
    chmodSync(join(cacheDir, "secret"), 0o755);
  }
  t.mock.method(ImageStore.prototype, "names", () => Promise.resolve(["gone", "hello", "secret"]));
  assert.deepEqual(
    (await manager.list()).map(({ name }) => name),
    ["hello", "secret"],
  );
});

test("the folder that a mounted disk brings is no image", async (t) => {
  const cacheDir = join(scratch(t), "images");
  mkdirSync(join(cacheDir, "lost+found"), { recursive: true, mode: 0o700 });
  const manager = new ImageManager({ cacheDir, registry: {} });
  assert.deepEqual(await manager.list(), []);
  assert.deepEqual((await manager.prune({ dryRun: true })).removed, []);
});
