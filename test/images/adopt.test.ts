import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";

import { ImageManager } from "../../src/images/index.js";
import { content, type Content, flipByte, Origin, scratch, sha256 } from "./setting.js";

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

test("a right file is not given up for content of its digest that nobody has looked at", async (t) => {
  const { origin, files, cacheDir, manager } = await setting(t, true);
  const { kernelPath, rootfsPath } = await manager.ensureImage("foreign");
  origin.close();
  for (const [verify, lost] of [
    ["auto", join(cacheDir, "foreign", "image.json")],
    ["full", rootfsPath],
  ] as const) {
    // One file under two names: both are damaged, and then another tool puts one of them right.
    flipByte(kernelPath, 3);
    writeFileSync(`${kernelPath}.new`, files.kernel);
    renameSync(`${kernelPath}.new`, kernelPath);
    rmSync(lost);
    const image = await manager.ensureImage("foreign", { verify, offline: true });
    assert.ok(readFileSync(image.kernelPath).equals(files.kernel), verify);
    assert.ok(readFileSync(join(cacheDir, ".blobs", "sha256", sha256(files.kernel))).equals(files.kernel), verify);
    assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs), verify);
    assert.deepEqual(
      await new ImageManager({ cacheDir, registry: {} }).ensureImage("foreign", { verify: "full" }),
      image,
    );
  }
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

test("files of another tool stay where they are until the image takes their place, and then it is said", async (t) => {
  const warned: Error[] = [];
  const note = (warning: Error): void => void warned.push(warning);
  process.on("warning", note);
  t.after(() => process.off("warning", note));
  const { origin, files, cacheDir, registry } = await setting(t, true);
  const packed = gzipSync(files.rootfs);
  origin.files.set("/foreign/rootfs.ext4.gz", packed);
  const compressed = {
    ...registry.foreign,
    name: "theirs",
    rootfsUrl: origin.url("/foreign/rootfs.ext4.gz"),
    rootfsSha256: sha256(packed),
  };
  const manager = new ImageManager({ cacheDir, registry: { theirs: compressed } });
  const theirs = content();
  putByOthers(cacheDir, "theirs", { kernel: theirs.kernel, rootfs: files.rootfs });
  await assert.rejects(manager.ensureImage("theirs", { offline: true }), { code: "IMAGE_NOT_CACHED" });
  assert.ok(readFileSync(join(cacheDir, "theirs", "vmlinux.bin")).equals(theirs.kernel));
  assert.ok(readFileSync(join(cacheDir, "theirs", "rootfs.ext4")).equals(files.rootfs));
  const image = await manager.ensureImage("theirs");
  assert.ok(readFileSync(image.kernelPath).equals(files.kernel));
  await new Promise((resolve) => setImmediate(resolve));
  const [warning] = warned.filter((each) => each.message.includes("'theirs'"));
  assert.equal((warning as NodeJS.ErrnoException | undefined)?.code, "SMOLVM_FILES_SET_ASIDE");
  const aside = readdirSync(join(cacheDir, ".damaged"));
  assert.equal(aside.length, 1, "the root filesystem was the right one");
  assert.ok((warning as Error & { detail: string }).detail.includes(aside[0] ?? "none"));
});

test("a right file that another tool put over an older image's is adopted when the registry moves on", async (t) => {
  const { origin, cacheDir, manager } = await setting(t, true);
  await manager.ensureImage("foreign");
  const next = content();
  const registry = { foreign: origin.publish("foreign", next, { pinned: true }) };
  for (const [file, bytes] of [["vmlinux.bin", next.kernel] as const, ["rootfs.ext4", next.rootfs] as const]) {
    rmSync(join(cacheDir, "foreign", file));
    writeFileSync(join(cacheDir, "foreign", file), bytes);
  }
  origin.close();
  const image = await new ImageManager({ cacheDir, registry }).ensureImage("foreign");
  assert.ok(readFileSync(image.rootfsPath).equals(next.rootfs));
});

test("names that the file system does not tell apart are an error that names both, and the one that is here stays", async (t) => {
  const { origin, files, cacheDir } = await setting(t, false);
  const registry = {
    hello: origin.publish("hello", files, { pinned: false }),
    Hello: origin.publish("Hello", content(), { pinned: false }),
  };
  const manager = new ImageManager({ cacheDir, registry });
  const image = await manager.ensureImage("hello");
  // What looking for one of them on a file system that folds case finds.
  symlinkSync("hello", join(cacheDir, "Hello"));
  const both = { code: "IMAGE_INVALID", message: /'Hello' and 'hello' have one folder/, hint: /smolvm image rm hello/ };
  assert.equal(await manager.isCached("Hello"), false);
  await assert.rejects(manager.ensureImage("Hello"), both);
  await assert.rejects(manager.remove("Hello"), both);
  await assert.rejects(manager.verify("Hello"), { code: "IMAGE_NOT_CACHED" });
  assert.deepEqual(
    (await manager.list()).map(({ name, cached }) => [name, cached]),
    [
      ["Hello", false],
      ["hello", true],
    ],
  );
  assert.deepEqual(await manager.ensureImage("hello", { verify: "full", offline: true }), image);
});

test("the folder of an image that was copied to another name is files of another tool", async (t) => {
  const { origin, files, cacheDir, manager, registry } = await setting(t, true);
  await manager.ensureImage("foreign");
  cpSync(join(cacheDir, "foreign"), join(cacheDir, "copy"), { recursive: true });
  const requests = origin.requests.length;
  const copy = new ImageManager({ cacheDir, registry: { copy: { ...registry.foreign, name: "copy" } } });
  assert.ok(readFileSync((await copy.ensureImage("copy")).rootfsPath).equals(files.rootfs));
  assert.equal(origin.requests.length, requests);
});

test("files of another tool for a source without digests are used as they are", async (t) => {
  const { origin, cacheDir, manager } = await setting(t, false);
  const own = content();
  putByOthers(cacheDir, "foreign", own);
  const image = await manager.ensureImage("foreign");
  assert.ok(readFileSync(image.rootfsPath).equals(own.rootfs));
  assert.deepEqual(origin.requests, []);
  assert.deepEqual(await manager.ensureImage("foreign", { verify: "full", offline: true }), image);
  writeFileSync(join(cacheDir, "foreign", "kernel.tmp"), "x");
  rmSync(image.rootfsPath);
  rmSync(join(cacheDir, ".blobs"), { recursive: true });
  await assert.rejects(manager.ensureImage("foreign"), { code: "IMAGE_CHECKSUM_MISMATCH" }, "the address has others");
  await manager.ensureImage("foreign", { acceptNew: true });
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
