import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { ImageManager, type ImageProgress } from "../../../src/images/index.js";
import { ImageStore } from "../../../src/images/store/index.js";
import { flipByte, sha256 } from "../setting.js";
import { hereAndThere } from "./setting.js";

test("an exported image is imported elsewhere without the network, and is what its source says", async (t) => {
  const { origin, files, here, there, archive } = await hereAndThere(t);
  await here.ensureImage("hello");
  const { path, bytes } = await here.exportArchive("hello", archive);
  assert.equal(path, archive);
  assert.equal(bytes, statSync(archive).size);
  assert.ok(bytes < files.kernel.length + files.rootfs.length, "holes are not stored");
  origin.close();
  const image = await there.importArchive(archive);
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  assert.ok(statSync(image.rootfsPath).blocks * 512 < files.rootfs.length, "the hole is a hole again");
  assert.deepEqual(await there.ensureImage("hello", { verify: "full", offline: true }), image);
  assert.equal((await there.inspect("hello")).origin, "imported");
});

test("an export tells how far it is to its end, and its image is removed meanwhile without harm", async (t) => {
  const { files, here, there, archive } = await hereAndThere(t);
  await here.ensureImage("hello");
  const told: ImageProgress[] = [];
  let removal: Promise<unknown> | undefined;
  const onProgress = (progress: ImageProgress): void => {
    told.push(progress);
    // When the first of its files is in the archive.
    if (progress.phase === "done") removal ??= here.remove("hello");
  };
  await here.exportArchive("hello", archive, { onProgress });
  await removal;
  assert.equal(await here.isCached("hello"), false);
  assert.ok(readFileSync((await there.importArchive(archive)).rootfsPath).equals(files.rootfs));
  const bytes = told.filter(({ asset }) => asset === "rootfs").map((progress) => progress.bytes);
  assert.deepEqual(
    bytes,
    [...bytes].sort((a, b) => a - b),
  );
  assert.ok(bytes.some((count) => count > files.rootfs.length / 2 && count < files.rootfs.length));
});

test("an archive is written to a file of any name, and a folder is refused before anything is read", async (t) => {
  const { here, folder } = await hereAndThere(t);
  await here.ensureImage("hello");
  const long = join(folder, `${"a".repeat(250)}.tar`);
  await here.exportArchive("hello", long);
  assert.ok(existsSync(long));
  await assert.rejects(here.exportArchive("hello", folder), { code: "VALIDATION", message: /is a folder/ });
  assert.deepEqual(readdirSync(folder).sort(), [`${"a".repeat(250)}.tar`, "here"]);
});

test("an archive is a tar that other programs read", async (t) => {
  const { files, here, archive, folder } = await hereAndThere(t);
  await here.ensureImage("hello");
  await here.exportArchive("hello", archive);
  const out = join(folder, "out");
  mkdirSync(out);
  execFileSync("tar", ["-xf", archive, "-C", out]);
  assert.deepEqual(readdirSync(out).sort(), ["manifest.json", "rootfs.ext4", "vmlinux.bin"]);
  assert.ok(readFileSync(join(out, "rootfs.ext4")).equals(files.rootfs));
  const manifest = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8")) as {
    image: { assets: { rootfs: { contentDigest: string } } };
  };
  assert.equal(manifest.image.assets.rootfs.contentDigest, sha256(files.rootfs));
});

test("an archive that tar itself put together is taken as well", async (t) => {
  const { files, here, there, archive, folder } = await hereAndThere(t);
  await here.ensureImage("hello");
  await here.exportArchive("hello", archive);
  const out = join(folder, "out");
  mkdirSync(out);
  execFileSync("tar", ["-xf", archive, "-C", out]);
  const names = ["manifest.json", "rootfs.ext4", "vmlinux.bin"];
  for (const format of [
    ["--format=ustar"],
    ["--format=posix", "--sparse", "--sparse-version=1.0", "--pax-option=delete=*time"],
  ]) {
    execFileSync("tar", [...format, "-cf", join(folder, "again.tar"), "-C", out, ...names]);
    const image = await there.importArchive(join(folder, "again.tar"), { name: "again", force: true });
    assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  }
});

test("an image of another name or content is replaced only if that is wanted", async (t) => {
  const { here, there, archive } = await hereAndThere(t);
  await here.ensureImage("hello");
  await here.exportArchive("hello", archive);
  await there.importArchive(archive, { name: "copy" });
  await there.importArchive(archive, { name: "copy" });
  const store = new ImageStore(there.cacheDir);
  const file = async (text: string) => {
    const path = await store.temporaryFile("file");
    writeFileSync(path, text);
    return { path };
  };
  const assets = { kernel: await file("kernel"), rootfs: await file("rootfs") };
  await store.install("mine", { assets, origin: { kind: "built" } });
  await assert.rejects(there.importArchive(archive, { name: "mine" }), { code: "IMAGE_INVALID", hint: /--force/ });
  assert.equal(readFileSync(join(there.cacheDir, "mine", "rootfs.ext4"), "utf8"), "rootfs");
  await there.importArchive(archive, { name: "mine", force: true });
});

test("a damaged image is not exported, and a failed export leaves the archive that was there", async (t) => {
  const { here, archive } = await hereAndThere(t);
  const { rootfsPath } = await here.ensureImage("hello");
  writeFileSync(archive, "the archive of yesterday");
  flipByte(rootfsPath, 5);
  await assert.rejects(here.exportArchive("hello", archive), { code: "IMAGE_NOT_CACHED" });
  assert.equal(readFileSync(archive, "utf8"), "the archive of yesterday");
  await here.ensureImage("hello");
  const controller = new AbortController();
  controller.abort(new Error("enough"));
  await assert.rejects(here.exportArchive("hello", archive, { signal: controller.signal }), /enough/);
  await assert.rejects(here.exportArchive("hello", join(archive, "below")), { name: "HostError" });
  assert.deepEqual(
    readdirSync(join(archive, "..")).filter((name) => name.includes("partial")),
    [],
  );
});

test("a damaged imported image is put right only by the bytes that it had", async (t) => {
  const { origin, files, folder, archive } = await hereAndThere(t);
  const packed = gzipSync(files.rootfs);
  origin.files.set("/packed.gz", packed);
  const { kernelUrl, kernelSha256 } = origin.publish("packed", files, { pinned: true });
  const source = { name: "packed", kernelUrl, kernelSha256, rootfsUrl: origin.url("/packed.gz") };
  const here = new ImageManager({ cacheDir: join(folder, "here"), registry: { packed: source } });
  await here.ensureImage("packed");
  await here.exportArchive("packed", archive);
  const there = new ImageManager({ cacheDir: join(folder, "there"), registry: {} });
  const lose = (path: string): void => {
    rmSync(path);
    rmSync(join(there.cacheDir, ".blobs"), { recursive: true });
  };
  const { rootfsPath } = await there.importArchive(archive);
  lose(rootfsPath);
  assert.ok(readFileSync((await there.ensureImage("packed")).rootfsPath).equals(files.rootfs));
  await there.importArchive(archive, { force: true });
  lose(rootfsPath);
  rmSync(join(there.cacheDir, ".sources"), { recursive: true });
  origin.files.set("/packed.gz", gzipSync(Buffer.from("evil")));
  await assert.rejects(there.ensureImage("packed"), { code: "IMAGE_CHECKSUM_MISMATCH", hint: /--accept-new/ });
  assert.equal(await there.isCached("packed"), false);
});

test("an image that is pinned as it is compressed comes through an archive where the user trusts that", async (t) => {
  const { origin, files, folder, archive } = await hereAndThere(t);
  const packed = gzipSync(files.rootfs);
  origin.files.set("/packed.gz", packed);
  const source = {
    ...origin.publish("packed", files, { pinned: true }),
    rootfsUrl: origin.url("/packed.gz"),
    rootfsSha256: sha256(packed),
  };
  const managers = ["here", "there"].map(
    (name) => new ImageManager({ cacheDir: join(folder, name), registry: { packed: source } }),
  );
  const [here, there] = managers as [ImageManager, ImageManager];
  await here.ensureImage("packed");
  await here.exportArchive("packed", archive);
  await there.importArchive(archive);
  await assert.rejects(there.ensureImage("packed", { offline: true }), {
    code: "IMAGE_NOT_CACHED",
    message: /came from an archive, which can't prove/,
    hint: /smolvm image import --trust/,
  });
  origin.close();
  const image = await there.importArchive(archive, { trust: true });
  assert.deepEqual(await there.ensureImage("packed", { offline: true, verify: "full" }), image);
});
