import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";

import fc from "fast-check";

import { SmolVMError } from "../../../src/errors.js";
import { ImageManager, type ImageProgress } from "../../../src/images/index.js";
import { ImageStore } from "../../../src/images/store/index.js";
import { formatHeader, formatPax, formatSparseMap, padding } from "../../../src/images/store/tar.js";
import { content, flipByte, Origin, scratch, sha256 } from "../setting.js";

async function setting(t: TestContext) {
  const origin = await Origin.start(t);
  const files = content();
  const folder = scratch(t);
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const here = new ImageManager({ cacheDir: join(folder, "here"), registry });
  const there = new ImageManager({ cacheDir: join(folder, "there"), registry });
  const archive = join(folder, "hello.tar");
  return { origin, files, folder, registry, here, there, archive };
}

test("an exported image is imported elsewhere without the network, and is what its source says", async (t) => {
  const { origin, files, here, there, archive } = await setting(t);
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
  const { files, here, there, archive } = await setting(t);
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
  const { here, folder } = await setting(t);
  await here.ensureImage("hello");
  const long = join(folder, `${"a".repeat(250)}.tar`);
  await here.exportArchive("hello", long);
  assert.ok(existsSync(long));
  await assert.rejects(here.exportArchive("hello", folder), { code: "VALIDATION", message: /is a folder/ });
  assert.deepEqual(readdirSync(folder).sort(), [`${"a".repeat(250)}.tar`, "here"]);
});

test("an archive is a tar that other programs read", async (t) => {
  const { files, here, archive, folder } = await setting(t);
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
  const { files, here, there, archive, folder } = await setting(t);
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
  const { here, there, archive } = await setting(t);
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
  const { here, archive } = await setting(t);
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

interface Member {
  readonly name: string;
  readonly data?: Buffer;
  readonly type?: string;
  readonly size?: number;
  readonly raw?: Buffer;
}

const KERNEL = Buffer.from("a kernel");
const ROOTFS = Buffer.concat([Buffer.from("a root filesystem"), Buffer.alloc(8_000)]);
const GOOD = [
  { name: "vmlinux.bin", data: KERNEL },
  { name: "rootfs.ext4", data: ROOTFS },
];

function manifest(changes: Record<string, unknown> = {}, assets: Record<string, unknown> = {}): Member {
  const asset = (bytes: Buffer) => ({ contentDigest: sha256(bytes), size: bytes.length, url: null, digest: null });
  const image = {
    format: 1,
    name: "forged",
    assets: { kernel: asset(KERNEL), rootfs: asset(ROOTFS), ...assets },
    bootArgs: null,
    origin: { kind: "built" },
    installedAt: "2026-01-01T00:00:00.000Z",
    ...changes,
  };
  return {
    name: "manifest.json",
    data: Buffer.from(JSON.stringify({ archive: "smolvm-image-archive", version: 1, image })),
  };
}

function tar(members: readonly Member[], end = Buffer.alloc(1024)): Buffer {
  const pieces = members.flatMap(({ name, data = Buffer.alloc(0), type = "0", size = data.length, raw }) =>
    raw ? [raw] : [formatHeader({ name, size, type }), data, Buffer.alloc(padding(data.length))],
  );
  return Buffer.concat([...pieces, end]);
}

function sparse(name: string, map: Buffer, data: Buffer, realsize: string): Member[] {
  const pax = formatPax({
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": name,
    "GNU.sparse.realsize": realsize,
  });
  return [
    { name: "PaxHeaders/x", data: pax, type: "x" },
    { name: `GNUSparseFile.0/${name}`, data: Buffer.concat([map, data]) },
  ];
}

function linked(): Buffer {
  const header = formatHeader({ name: "vmlinux.bin", size: KERNEL.length, type: "0" });
  header.write("../../etc/passwd", 157);
  const sum = header.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return Buffer.concat([header, KERNEL, Buffer.alloc(padding(KERNEL.length))]);
}

test("a hostile archive is a typed error, and nothing is left of it", async (t) => {
  const { there, folder } = await setting(t);
  const path = join(folder, "hostile.tar");
  const [kernel, rootfs] = GOOD as [Member, Member];
  const map = (runs: [number, number][], size: number) => formatSparseMap(runs, size);
  const cases: Record<string, Buffer> = {
    empty: Buffer.alloc(0),
    "only an end": Buffer.alloc(1024),
    "not a tar": Buffer.alloc(4096, "x"),
    "no manifest": tar(GOOD),
    "manifest not first": tar([kernel, manifest(), rootfs]),
    "manifest not JSON": tar([{ name: "manifest.json", data: Buffer.from("{") }, ...GOOD]),
    "manifest of another program": tar([{ name: "manifest.json", data: Buffer.from('{"archive":"x"}') }, ...GOOD]),
    "manifest of a later version": tar([
      { name: "manifest.json", data: Buffer.from('{"archive":"smolvm-image-archive","version":2}') },
    ]),
    "manifest too large": tar([{ name: "manifest.json", data: Buffer.alloc(300_000, " ") }]),
    "a name that leaves the cache": tar([manifest({ name: "../../evil" }), ...GOOD]),
    "a digest that is a path": tar([
      manifest({}, { kernel: { contentDigest: "../../x", size: 8, url: null, digest: null } }),
      ...GOOD,
    ]),
    "a member outside": tar([manifest(), kernel, { name: "../../evil", data: KERNEL }, rootfs]),
    "an absolute member": tar([manifest(), kernel, { name: "/tmp/evil", data: KERNEL }, rootfs]),
    "a member with a path": tar([manifest(), { name: "./vmlinux.bin", data: KERNEL }, rootfs]),
    "a member that nobody named": tar([manifest(), ...GOOD, { name: "initrd.img", data: KERNEL }]),
    "a member twice": tar([manifest(), kernel, kernel, rootfs]),
    "a member missing": tar([manifest(), kernel]),
    "a hard link": tar([manifest(), { ...kernel, type: "1" }, rootfs]),
    "a symbolic link": tar([manifest(), { ...kernel, type: "2" }, rootfs]),
    "a character device": tar([manifest(), { ...kernel, type: "3" }, rootfs]),
    "a block device": tar([manifest(), { ...kernel, type: "4" }, rootfs]),
    "a folder": tar([manifest(), { ...kernel, type: "5" }, rootfs]),
    "a pipe": tar([manifest(), { ...kernel, type: "6" }, rootfs]),
    "a GNU long name": tar([manifest(), { name: "././@LongLink", data: KERNEL, type: "L" }, rootfs]),
    "a global header": tar([manifest(), { name: "g", data: formatPax({ path: "x" }), type: "g" }, ...GOOD]),
    "a file that is also a link": tar([manifest(), { name: "", raw: linked() }, rootfs]),
    "a pax path": tar([manifest(), { name: "x", data: formatPax({ path: "../x" }), type: "x" }, ...GOOD]),
    "wrong bytes": tar([manifest(), kernel, { name: "rootfs.ext4", data: Buffer.alloc(ROOTFS.length) }]),
    "shorter than it says": tar([manifest(), kernel, rootfs]).subarray(0, -5_000),
    "cut in a header": tar([manifest(), kernel, rootfs]).subarray(0, 700),
    "no end": tar([manifest(), ...GOOD], Buffer.alloc(0)),
    "something after the end": tar([manifest(), ...GOOD], Buffer.concat([Buffer.alloc(1024), Buffer.from("more")])),
    "a size that is a lie": tar([manifest(), { ...kernel, size: 2 ** 40 }, rootfs]),
    "a size beyond numbers": tar([manifest(), { ...kernel, size: Number.MAX_SAFE_INTEGER + 1 }, rootfs]),
    "a sparse file larger than its manifest says": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", map([[0, 17]], 1e12), ROOTFS.subarray(0, 17), "1000000000000"),
    ]),
    "a sparse map with overlapping runs": tar([
      manifest(),
      kernel,
      ...sparse(
        "rootfs.ext4",
        map(
          [
            [0, 10],
            [5, 15],
          ],
          ROOTFS.length,
        ),
        Buffer.alloc(20),
        String(ROOTFS.length),
      ),
    ]),
    "a sparse map beyond the file": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", map([[0, 1e9]], 1e9), ROOTFS, String(ROOTFS.length)),
    ]),
    "a sparse map without data": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", map([[0, 17]], ROOTFS.length), Buffer.alloc(0), String(ROOTFS.length)),
    ]),
    "a sparse map that never ends": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", Buffer.from("999999\n0\n"), Buffer.alloc(0), String(ROOTFS.length)),
    ]),
    "a sparse map of a billion runs": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", Buffer.from("1000000000\n"), Buffer.alloc(512), String(ROOTFS.length)),
    ]),
    "a sparse map that is text": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", Buffer.from("one\n"), Buffer.alloc(512), String(ROOTFS.length)),
    ]),
    "a sparse file under a path": tar([
      manifest(),
      kernel,
      ...sparse("../rootfs.ext4", map([[0, 17]], ROOTFS.length), ROOTFS.subarray(0, 17), String(ROOTFS.length)),
    ]),
    "a sparse size that is no number": tar([
      manifest(),
      kernel,
      ...sparse("rootfs.ext4", map([[0, 17]], ROOTFS.length), ROOTFS.subarray(0, 17), "many"),
    ]),
  };
  for (const [what, bytes] of Object.entries(cases)) {
    writeFileSync(path, bytes);
    await assert.rejects(there.importArchive(path), (error) => error instanceof SmolVMError, what);
    assertNothing(there.cacheDir, what);
  }
  writeFileSync(path, tar([manifest(), ...GOOD]));
  assert.ok(
    readFileSync((await there.importArchive(path)).rootfsPath).equals(ROOTFS),
    "the archive that the others were made from",
  );
  t.diagnostic(`${Object.keys(cases).length} hostile archives`);
});

test("an archive can't bring what no image may have, nor holes without end", async (t) => {
  const { there, folder } = await setting(t);
  const path = join(folder, "odd.tar");
  const asset = { contentDigest: sha256(KERNEL), size: KERNEL.length, url: null, digest: null };
  const vast = 8 * 2 ** 40;
  const cases: Record<string, Buffer> = {
    "boot arguments without end": tar([manifest({ bootArgs: "a".repeat(1537) }), ...GOOD]),
    "boot arguments of two lines": tar([manifest({ bootArgs: "quiet\ninit=/x" }), ...GOOD]),
    "an address that clears the screen": tar([
      manifest({}, { kernel: { ...asset, url: "http://host/\u001b[2J" } }),
      ...GOOD,
    ]),
    "an address of another kind": tar([manifest({}, { kernel: { ...asset, url: "javascript:1" } }), ...GOOD]),
    "a time that is none": tar([manifest({ installedAt: "\u001b[2J" }), ...GOOD]),
    "a name that none can have": tar([manifest({ name: ".hidden" }), ...GOOD]),
    "8 TiB of holes": tar([
      manifest({}, { rootfs: { ...asset, size: vast } }),
      GOOD[0] as Member,
      ...sparse("rootfs.ext4", formatSparseMap([], vast), Buffer.alloc(0), String(vast)),
    ]),
  };
  for (const [what, bytes] of Object.entries(cases)) {
    writeFileSync(path, bytes);
    const importing = there.importArchive(path, { name: "forged", signal: AbortSignal.timeout(2_000) });
    await assert.rejects(importing, { code: "IMAGE_INVALID" }, what);
    assertNothing(there.cacheDir, what);
    assert.deepEqual(
      (await there.list()).map(({ name }) => name),
      ["hello"],
      what,
    );
  }
});

test("what an archive says of itself does nothing with a terminal", async (t) => {
  const { there, folder } = await setting(t);
  const path = join(folder, "odd.tar");
  writeFileSync(path, tar([manifest(), { name: "\u001b]0;owned\u0007\u001b[2J", data: KERNEL }]));
  const error: unknown = await there.importArchive(path).catch((thrown: unknown) => thrown);
  assert.ok(error instanceof SmolVMError);
  assert.doesNotMatch(error.message, /\p{Cc}/u);
});

test("an archive can't pass its content off as what an address with a pinned digest serves", async (t) => {
  const { there, folder, registry, files } = await setting(t);
  const path = join(folder, "forged.tar");
  const claim = {
    contentDigest: sha256(KERNEL),
    size: KERNEL.length,
    url: registry.hello.kernelUrl,
    digest: sha256(files.kernel),
  };
  writeFileSync(path, tar([manifest({ name: "hello" }, { kernel: claim }), ...GOOD]));
  await there.importArchive(path);
  const image = await there.ensureImage("hello");
  assert.ok(readFileSync(image.kernelPath).equals(files.kernel));
});

test("a damaged imported image is put right only by the bytes that it had", async (t) => {
  const { origin, files, folder, archive } = await setting(t);
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
  const { origin, files, folder, archive } = await setting(t);
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

test("whatever a fuzzer does to an archive, it is taken whole or refused with a typed error", async (t) => {
  const { here, there, archive, files, folder } = await setting(t);
  await here.ensureImage("hello");
  await here.exportArchive("hello", archive);
  const original = readFileSync(archive);
  const path = join(folder, "fuzzed.tar");
  // Headers and maps are where the mistakes would be: most of the positions are in them.
  const headers = [0, 512, 1024, 1536].map((base) => fc.integer({ min: base, max: base + 511 }));
  const position = fc.oneof(...headers, fc.integer({ min: 0, max: original.length - 1 }));
  const change = fc.record({ position, byte: fc.integer({ min: 0, max: 255 }) });
  let [taken, refused] = [0, 0];
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), fc.option(position), async (changes, cut) => {
      const bytes = Buffer.from(original);
      for (const { position: at, byte } of changes) bytes[at] = byte;
      writeFileSync(path, cut === null ? bytes : bytes.subarray(0, cut));
      try {
        const image = await there.importArchive(path, { name: "fuzzed", force: true });
        taken += 1;
        return (
          readFileSync(image.rootfsPath).equals(files.rootfs) && readFileSync(image.kernelPath).equals(files.kernel)
        );
      } catch (error) {
        refused += 1;
        return error instanceof SmolVMError;
      }
    }),
    { numRuns: 300 },
  );
  t.diagnostic(`${taken + refused} mutated archives: ${refused} refused, ${taken} with nothing that matters changed`);
});

/** No image, no content and no temporary file: at most the folders that they would be in. */
function assertNothing(cacheDir: string, what: string): void {
  if (!existsSync(cacheDir)) return;
  const left = readdirSync(cacheDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== "owner.json" && !entry.name.startsWith("clock."))
    .map((entry) => join(entry.parentPath, entry.name));
  assert.deepEqual(left, [], what);
}
