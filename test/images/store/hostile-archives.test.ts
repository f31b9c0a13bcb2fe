import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import fc from "fast-check";

import { SmolVMError } from "../../../src/errors.js";
import { formatHeader, formatPax, formatSparseMap, padding } from "../../../src/images/store/tar.js";
import { sha256 } from "../setting.js";
import { hereAndThere } from "./setting.js";

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
  const { there, folder } = await hereAndThere(t);
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
  const { there, folder } = await hereAndThere(t);
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
    const importing = there.importArchive(path, { name: "forged", signal: AbortSignal.timeout(30_000) });
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
  const { there, folder } = await hereAndThere(t);
  const path = join(folder, "odd.tar");
  writeFileSync(path, tar([manifest(), { name: "\u001b]0;owned\u0007\u001b[2J", data: KERNEL }]));
  const error: unknown = await there.importArchive(path).catch((thrown: unknown) => thrown);
  assert.ok(error instanceof SmolVMError);
  assert.doesNotMatch(error.message, /\p{Cc}/u);
});

test("an archive can't pass its content off as what an address with a pinned digest serves", async (t) => {
  const { there, folder, registry, files } = await hereAndThere(t);
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

test("whatever a fuzzer does to an archive, it is taken whole or refused with a typed error", async (t) => {
  const { here, there, archive, files, folder } = await hereAndThere(t);
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
