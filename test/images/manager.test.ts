import assert from "node:assert/strict";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";

import { ImageError, SmolVMError, ValidationError } from "../../src/errors.js";
import { ImageManager, type ImageProgress, ImageSource } from "../../src/images/index.js";
import { Stamps } from "../../src/images/store/stamps.js";
import { content, flipByte, Origin, scratch, sha256 } from "./setting.js";

async function setting(t: TestContext, options: { pinned?: boolean } = {}) {
  const origin = await Origin.start(t);
  const files = content();
  const cacheDir = join(scratch(t), "images");
  const registry = { hello: origin.publish("hello", files, { pinned: options.pinned ?? true }) };
  const manager = new ImageManager({ cacheDir, registry });
  return { origin, files, cacheDir, registry, manager };
}

test("an image is downloaded, verified and put where the spec says", async (t) => {
  const { manager, cacheDir, files } = await setting(t);
  assert.equal(await manager.isCached("hello"), false);
  const image = await manager.ensureImage("hello");
  assert.equal(image.name, "hello");
  assert.equal(image.kernelPath, join(cacheDir, "hello", "vmlinux.bin"));
  assert.equal(image.rootfsPath, join(cacheDir, "hello", "rootfs.ext4"));
  assert.ok(readFileSync(image.kernelPath).equals(files.kernel));
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  assert.equal(await manager.isCached("hello"), true);
  assert.deepEqual(readdirSync(join(cacheDir, "hello")).sort(), ["image.json", "rootfs.ext4", "vmlinux.bin"]);
  assert.equal(lstatSync(image.rootfsPath).mode & 0o777, 0o444);
});

test("a cached image is used again without the network, by this manager and by any other", async (t) => {
  const { manager, origin, cacheDir, registry } = await setting(t);
  const image = await manager.ensureImage("hello");
  origin.close();
  assert.deepEqual(await manager.ensureImage("hello"), image);
  assert.deepEqual(await manager.ensureImage("hello", { verify: "full", offline: true }), image);
  assert.deepEqual(await new ImageManager({ cacheDir, registry }).ensureImage("hello"), image);
});

test("the registry is listed by name, and may be of sources or of plain objects", (t) => {
  const source = { name: "b", kernelUrl: "https://example.com/k", rootfsUrl: "https://example.com/r" };
  const registry = { b: new ImageSource(source), a: { ...source, name: "a" } };
  assert.deepEqual(new ImageManager({ cacheDir: scratch(t), registry }).listAvailable(), ["a", "b"]);
  assert.deepEqual(new ImageManager({ cacheDir: scratch(t) }).listAvailable(), ["hello", "quickstart-x86_64"]);
  const misspelt = { a: { ...source, name: "a", kernelSha265: "" } };
  assert.throws(() => new ImageManager({ registry: misspelt }), ValidationError);
  assert.throws(() => new ImageManager({ registry: { other: source } }), /'b' under the key 'other'/);
  assert.throws(() => new ImageManager({ cacheDir: "" }), ValidationError);
});

test("the cache folder is the given one, else $SMOLVM_IMAGE_DIR, else below the home", (t) => {
  const folder = scratch(t);
  const before = { ...process.env };
  t.after(() => (process.env = before));
  process.env["SMOLVM_HOME"] = folder;
  delete process.env["SMOLVM_IMAGE_DIR"];
  assert.equal(new ImageManager().cacheDir, join(folder, "images"));
  process.env["SMOLVM_IMAGE_DIR"] = join(folder, "elsewhere");
  assert.equal(new ImageManager().cacheDir, join(folder, "elsewhere"));
  assert.equal(new ImageManager({ cacheDir: join(folder, "given") }).cacheDir, join(folder, "given"));
});

test("names that nobody knows and names that can't be are told apart", async (t) => {
  const { manager, cacheDir } = await setting(t);
  await assert.rejects(manager.ensureImage("nope"), {
    name: "ImageError",
    code: "IMAGE_UNKNOWN",
    message: "Unknown image: 'nope'. Available images: hello",
  });
  await assert.rejects(new ImageManager({ cacheDir, registry: {} }).ensureImage("nope"), {
    message: "Unknown image: 'nope'. Available images: (none)",
  });
  await assert.rejects(manager.ensureImage("default"), { hint: /made on this host.*image pull default/ });
  assert.equal(await manager.isCached("nope"), false);
  for (const call of [manager.isCached(""), manager.ensureImage("")]) {
    await assert.rejects(call, { name: "ValidationError", message: "image name cannot be empty" });
  }
  for (const bad of ["../hello", "/etc/passwd", "a/b", ".blobs"]) {
    await assert.rejects(manager.ensureImage(bad), ValidationError);
    await assert.rejects(manager.isCached(bad), ValidationError);
  }
  assert.deepEqual(existing(cacheDir), []);
});

test("whatever a caller without types gives is a ValidationError that names it", async (t) => {
  const { manager, cacheDir } = await setting(t);
  const untyped = manager as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  const calls: [call: string, args: unknown[], names: RegExp][] = [
    ["importArchive", [undefined], /path/],
    ["importArchive", ["x.tar", { name: "../x" }], /image name/],
    ["importArchive", ["x.tar", { trust: "yes" }], /trust is 'yes'; allowed is true or false/],
    ["exportArchive", ["hello", undefined], /path/],
    ["exportArchive", ["hello", ""], /path/],
    ["ensureImage", ["hello", null], /options/],
    ["ensureImage", ["hello", []], /options/],
    ["ensureImage", ["hello", { signal: "no" }], /signal/],
    ["ensureImage", ["hello", { offline: 1 }], /offline/],
    ["ensureImage", ["hello", { verify: "sometimes" }], /verify is 'sometimes'/],
    ["ensureImage", ["hello", { ofline: true }], /options has no field 'ofline'; allowed are .*\boffline\b/],
    ["ensureImage", ["hello", { constructor: 1 }], /no field 'constructor'/],
    ["verify", ["hello", { offline: true }], /no field 'offline'/],
    ["verify", ["hello", { onProgress: {} }], /onProgress/],
    ["prune", [null], /options/],
    ["prune", [{ dryRun: "yes" }], /dryRun/],
    ["remove", [undefined], /image name/],
    ["inspect", [7], /image name/],
    ["isCached", [null], /image name/],
    ["companionsOf", [undefined], /path/],
  ];
  for (const [call, args, names] of calls) {
    const error: unknown = await untyped[call]?.apply(manager, args).catch((thrown: unknown) => thrown);
    assert.ok(error instanceof ValidationError, `${call} ${String(args[0])}: ${String(error)}`);
    assert.match(error.message, names);
  }
  for (const wrong of [null, { cachDir: cacheDir }]) {
    assert.throws(() => new ImageManager(wrong as unknown as object), ValidationError);
  }
  assert.equal(existsSync(cacheDir), false, "nothing was begun");
});

test("a failure that nobody foresaw is an error of the library with its cause, and an abort reason is left as it is", async (t) => {
  const { manager, cacheDir, registry } = await setting(t);
  await manager.ensureImage("hello");
  const fault = new RangeError("a worker that is out of memory, say");
  t.mock.method(Stamps.prototype, "trusted", () => {
    throw fault;
  });
  const fresh = new ImageManager({ cacheDir, registry });
  await assert.rejects(fresh.ensureImage("hello"), (error) => {
    assert.ok(error instanceof SmolVMError);
    assert.equal(error.code, "INTERNAL");
    assert.equal(error.cause, fault);
    return true;
  });
  for (const reason of ["a text", undefined, { an: "object" }]) {
    const given = AbortSignal.abort(reason);
    const thrown: unknown = await fresh.ensureImage("hello", { signal: given }).catch((error: unknown) => error);
    assert.equal(thrown, given.reason);
  }
});

test("wrong bytes are an IMAGE_CHECKSUM_MISMATCH in the spec's words, and nothing is left under the image's name", async (t) => {
  const { manager, origin, files, cacheDir } = await setting(t);
  const wrong = Buffer.from(files.rootfs);
  wrong[0] = (wrong[0] ?? 0) ^ 1;
  origin.files.set("/hello/rootfs.ext4", wrong);
  const error: unknown = await manager.ensureImage("hello").catch((thrown: unknown) => thrown);
  assert.ok(error instanceof ImageError);
  assert.equal(error.code, "IMAGE_CHECKSUM_MISMATCH");
  const expected = sha256(files.rootfs);
  assert.match(
    error.message,
    new RegExp(
      `^SHA-256 mismatch for ${origin.url("/hello/rootfs.ext4")}\n  expected: ${expected}\n  actual:   [0-9a-f]{64}$`,
    ),
  );
  assert.equal(await manager.isCached("hello"), false);
  assert.ok(!readdirSync(cacheDir).includes("hello"));
});

test("an address that can't be had is an IMAGE_DOWNLOAD_FAILED that names it", async (t) => {
  const { manager, origin } = await setting(t);
  origin.files.delete("/hello/vmlinux.bin");
  await assert.rejects(manager.ensureImage("hello"), (error) => {
    assert.ok(error instanceof ImageError);
    assert.equal(error.code, "IMAGE_DOWNLOAD_FAILED");
    return error.message.startsWith(`Download failed for ${origin.url("/hello/vmlinux.bin")}: `);
  });
});

test("offline, what is not in the cache is an IMAGE_NOT_CACHED and the network is left alone", async (t) => {
  const { manager, origin } = await setting(t);
  await assert.rejects(manager.ensureImage("hello", { offline: true }), { code: "IMAGE_NOT_CACHED" });
  assert.deepEqual(origin.requests, []);
});

test("only the damaged file is fetched again, and the damaged one is set aside", async (t) => {
  const { manager, origin, files, cacheDir } = await setting(t);
  const { kernelPath, rootfsPath } = await manager.ensureImage("hello");
  flipByte(kernelPath, files.kernel.length - 1);
  assert.deepEqual(
    (await manager.verify("hello")).assets.map(({ ok }) => ok),
    [false, true],
  );
  await manager.ensureImage("hello");
  assert.ok(readFileSync(kernelPath).equals(files.kernel));
  assert.equal(origin.asked("/hello/vmlinux.bin"), 2);
  assert.equal(origin.asked("/hello/rootfs.ext4"), 1);
  assert.equal(readdirSync(join(cacheDir, ".damaged")).length, 1);
  rmSync(rootfsPath);
  await manager.ensureImage("hello");
  assert.ok(readFileSync(rootfsPath).equals(files.rootfs), "a file that lost its name is linked back from its blob");
});

test("a missing file whose content is gone too is the only one that is fetched", async (t) => {
  const { manager, origin, files, cacheDir } = await setting(t);
  const { rootfsPath } = await manager.ensureImage("hello");
  rmSync(rootfsPath);
  rmSync(join(cacheDir, ".blobs", "sha256", sha256(files.rootfs)));
  assert.equal(await manager.isCached("hello"), false);
  await manager.ensureImage("hello");
  assert.ok(readFileSync(rootfsPath).equals(files.rootfs));
  assert.equal(origin.asked("/hello/vmlinux.bin"), 1);
  assert.equal(origin.asked("/hello/rootfs.ext4"), 2);
});

test("symbolic links, folders and pipes where a file should be are not followed, and are replaced", async (t) => {
  const { manager, files, cacheDir } = await setting(t);
  const { kernelPath, rootfsPath } = await manager.ensureImage("hello");
  const secret = join(cacheDir, "..", "secret");
  writeFileSync(secret, "not for the machine");
  const put: Record<string, () => void> = {
    "a symbolic link": () => symlinkSync(secret, rootfsPath),
    "a dangling link": () => symlinkSync("/nonexistent", rootfsPath),
    "a folder": () => mkdirSync(join(rootfsPath, "deeper"), { recursive: true }),
  };
  for (const [what, place] of Object.entries(put)) {
    rmSync(rootfsPath, { recursive: true });
    place();
    assert.equal(await manager.isCached("hello"), false, what);
    await manager.ensureImage("hello");
    assert.ok(lstatSync(rootfsPath).isFile(), what);
    assert.ok(readFileSync(rootfsPath).equals(files.rootfs), what);
  }
  assert.equal(readFileSync(secret, "utf8"), "not for the machine");
  rmSync(join(cacheDir, "hello"), { recursive: true });
  writeFileSync(join(cacheDir, "hello"), "a file where the folder should be");
  await manager.ensureImage("hello");
  assert.ok(readFileSync(kernelPath).equals(files.kernel));
});

test("the same content under two names is stored once and downloaded once", async (t) => {
  const { origin, files, cacheDir, registry } = await setting(t);
  const other = origin.publish("other", files, { pinned: true, folder: "elsewhere" });
  const manager = new ImageManager({ cacheDir, registry: { ...registry, other } });
  const hello = await manager.ensureImage("hello");
  const twin = await manager.ensureImage("other");
  assert.equal(statSync(hello.rootfsPath).ino, statSync(twin.rootfsPath).ino);
  assert.equal(origin.asked("/elsewhere/rootfs.ext4"), 0);
  assert.notEqual(await manager.ensureImage("hello", { offline: true }), null);
});

test("a compressed file is pinned by the bytes at its address, and kept, shared and put right as what it holds", async (t) => {
  const { origin, files, cacheDir, registry } = await setting(t);
  const packed = gzipSync(files.rootfs);
  origin.files.set("/rootfs.ext4.gz", packed);
  const rootfs = { rootfsUrl: origin.url("/rootfs.ext4.gz"), rootfsSha256: sha256(packed) };
  const manager = new ImageManager({
    cacheDir,
    registry: {
      packed: { ...registry.hello, ...rootfs, name: "packed" },
      again: { ...registry.hello, ...rootfs, name: "again" },
    },
  });
  const { rootfsPath } = await manager.ensureImage("packed");
  assert.ok(readFileSync(rootfsPath).equals(files.rootfs));
  await manager.ensureImage("packed", { verify: "full", offline: true });
  await manager.ensureImage("again");
  assert.equal(origin.asked("/rootfs.ext4.gz"), 1);
  flipByte(rootfsPath, 3);
  await manager.ensureImage("packed");
  assert.ok(readFileSync(rootfsPath).equals(files.rootfs));
  assert.equal(origin.asked("/rootfs.ext4.gz"), 2);
});

test("a registry's mirrors are asked first, and the address itself when they fail", async (t) => {
  const { origin, files, cacheDir, registry } = await setting(t);
  const mirror = await Origin.start(t);
  mirror.files.set("/copies/hello/rootfs.ext4", files.rootfs);
  const hello = { ...registry.hello, mirrors: [mirror.url("/copies/")] };
  const image = await new ImageManager({ cacheDir, registry: { hello } }).ensureImage("hello");
  assert.ok(readFileSync(image.kernelPath).equals(files.kernel));
  assert.deepEqual(mirror.requests.sort(), ["/copies/hello/rootfs.ext4", "/copies/hello/vmlinux.bin"]);
  assert.deepEqual(origin.requests, ["/hello/vmlinux.bin"]);
});

test("another source under the same name replaces the image, and only what differs is downloaded", async (t) => {
  const { origin, files, cacheDir, manager } = await setting(t);
  const before = await manager.ensureImage("hello");
  const next = { kernel: files.kernel, rootfs: content().rootfs };
  const registry = { hello: { ...origin.publish("hello", next, { pinned: true, folder: "v2" }), bootArgs: "quiet" } };
  const after = await new ImageManager({ cacheDir, registry }).ensureImage("hello");
  assert.equal(after.rootfsPath, before.rootfsPath);
  assert.equal(after.bootArgs, "quiet");
  assert.ok(readFileSync(after.rootfsPath).equals(next.rootfs));
  assert.equal(origin.asked("/v2/vmlinux.bin"), 0);
});

test("an image with an initrd has three files, and loses the third with its source", async (t) => {
  const { origin, files, cacheDir, registry, manager } = await setting(t);
  origin.files.set("/initrd.img", Buffer.from("initrd"));
  const hello = { ...registry.hello, initrdUrl: origin.url("/initrd.img"), bootArgs: "console=ttyS0" };
  const withInitrd = new ImageManager({ cacheDir, registry: { hello } });
  const image = await withInitrd.ensureImage("hello");
  assert.equal(image.initrdPath, join(cacheDir, "hello", "initrd.img"));
  assert.deepEqual(await withInitrd.companionsOf(image.kernelPath), {
    initrdPath: image.initrdPath,
    bootArgs: "console=ttyS0",
  });
  assert.equal(await withInitrd.companionsOf("/boot/vmlinuz"), null);
  rmSync(image.initrdPath);
  assert.equal(await withInitrd.isCached("hello"), false);
  assert.equal((await manager.ensureImage("hello")).initrdPath, null);
  assert.deepEqual(readdirSync(join(cacheDir, "hello")).sort(), ["image.json", "rootfs.ext4", "vmlinux.bin"]);
  assert.ok(readFileSync(image.kernelPath).equals(files.kernel));
});

test("progress goes from download to done for each file, and a callback that throws, rejects or is slow does no harm", async (t) => {
  const { manager, files } = await setting(t);
  const seen: ImageProgress[] = [];
  await manager.ensureImage("hello", {
    onProgress: (progress) => {
      seen.push(progress);
      if (progress.asset === "kernel") throw new Error("a broken display");
      return Promise.reject(new Error("a broken asynchronous display")) as unknown as undefined;
    },
  });
  const done = seen.filter(({ phase }) => phase === "done");
  assert.deepEqual(
    done
      .map(({ image, asset, bytes, total }) => ({ image, asset, bytes, total }))
      .sort((a, b) => (a.asset < b.asset ? -1 : 1)),
    [
      { image: "hello", asset: "kernel", bytes: files.kernel.length, total: files.kernel.length },
      { image: "hello", asset: "rootfs", bytes: files.rootfs.length, total: files.rootfs.length },
    ],
  );
  assert.ok(seen.some(({ phase, asset }) => phase === "download" && asset === "rootfs"));
  await assert.rejects(manager.ensureImage("hello", { onProgress: 1 as never }), ValidationError);
  await assert.rejects(manager.ensureImage("hello", { verify: "never" as never }), ValidationError);
});

test("abort ends a download at once with the caller's reason, and leaves nothing under the image's name", async (t) => {
  const { manager, origin, cacheDir } = await setting(t);
  origin.pieceDelayMs = 2_000; // it would take far longer than an abort may
  const reason = new Error("changed my mind");
  await assert.rejects(manager.ensureImage("hello", { signal: AbortSignal.abort(reason) }), reason);
  const delays: number[] = [];
  for (let round = 0; round < 3; round++) {
    const controller = new AbortController();
    let abortedAt = 0;
    const call = manager.ensureImage("hello", { signal: controller.signal });
    setTimeout(() => {
      abortedAt = performance.now();
      controller.abort(reason);
    }, 60);
    await assert.rejects(call, reason);
    delays.push(performance.now() - abortedAt);
  }
  // On a busy machine one of them may have waited for its turn.
  t.diagnostic(`answered after ${delays.map((delay) => delay.toFixed(1)).join(", ")} ms`);
  assert.ok(Math.min(...delays) < 1_000, `took ${delays.join(", ")} ms`);
  assert.ok(!readdirSync(cacheDir).includes("hello"));
  origin.pieceDelayMs = 0;
  await manager.ensureImage("hello");
});

function existing(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // it was never made
  }
}
