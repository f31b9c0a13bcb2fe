import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { ImageError, ValidationError } from "../../src/errors.js";
import { createOverlay, diskSize } from "../../src/machine/disk.js";
import { inspectRootfs } from "../../src/machine/rootfs.js";

const exec = promisify(execFile);
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-disk-"));
});
after(() => rm(folder, { recursive: true, force: true }));

interface QemuImageInfo {
  readonly format: string;
  readonly "virtual-size": number;
  readonly "backing-filename"?: string;
}

test("QEMU's own tool finds nothing wrong with a new disk, whatever its size", async (context) => {
  const mib = 1024 * 1024;
  for (const size of [512, mib, 539 * mib + 512, 900 * mib, 40 * 1024 * mib, 2 * 1024 * 1024 * mib]) {
    const path = join(folder, `disk-${size}`);
    const started = performance.now();
    await createOverlay(path, size);
    const took = performance.now() - started;
    const info = JSON.parse((await exec("qemu-img", ["info", "--output=json", path])).stdout) as QemuImageInfo;
    assert.equal(info.format, "qcow2");
    assert.equal(info["virtual-size"], size);
    assert.equal(info["backing-filename"], undefined);
    await exec("qemu-img", ["check", "-q", path]);
    assert.ok((await stat(path)).blocks * 512 <= 64 * 1024, "it is sparse");
    context.diagnostic(`${size} bytes: ${took.toFixed(1)} ms`);
  }
});

test("a disk is there whole or not at all, whatever a killed program has left of another", async () => {
  const path = join(folder, "whole");
  await writeFile(`${path}.new`, Buffer.alloc(1_000_000, 1));
  const state = { made: false };
  const making = createOverlay(path, 1024 * 1024 * 1024).then(() => (state.made = true));
  let first: Buffer | undefined;
  while (!state.made) {
    if (first === undefined && existsSync(path)) first = readFileSync(path);
    await new Promise(setImmediate);
  }
  await making;
  if (first !== undefined) assert.deepEqual(first, readFileSync(path));
  await exec("qemu-img", ["check", "-q", path]);
});

test("a disk is as large as its image, or larger, never smaller", () => {
  const mib = 1024 * 1024;
  assert.equal(diskSize(10 * mib, null), 10 * mib);
  assert.equal(diskSize(10 * mib + 5, null), 10 * mib + 512);
  assert.equal(diskSize(10 * mib, 20), 20 * mib);
  assert.throws(
    () => diskSize(10 * mib + 1, 10),
    (error) =>
      error instanceof ValidationError &&
      /diskSizeMib is 10; .* at least 11/.test(error.message) &&
      /11 or more/.test(error.hint ?? ""),
  );
});

test("a root file system is known by its magic number", async () => {
  const real = join(folder, "real");
  await writeFile(real, "");
  await truncate(real, 4 * 1024 * 1024);
  await exec("mke2fs", ["-q", "-F", "-t", "ext2", real]);
  assert.deepEqual(await inspectRootfs(real), { type: "ext4", size: 4 * 1024 * 1024 });

  const others: readonly (readonly [string, number, Buffer])[] = [
    ["squashfs", 0, Buffer.from("hsqs")],
    ["erofs", 1024, Buffer.from([0xe2, 0xe1, 0xf5, 0xe0])],
    ["xfs", 0, Buffer.from("XFSB")],
    ["btrfs", 65536 + 64, Buffer.from("_BHRfS_M")],
  ];
  for (const [type, offset, magic] of others) {
    const path = join(folder, type);
    const bytes = Buffer.alloc(128 * 1024);
    magic.copy(bytes, offset);
    await writeFile(path, bytes);
    assert.equal((await inspectRootfs(path)).type, type);
  }
});

test("what is no file system is refused with the file's name", async () => {
  for (const [name, bytes] of [
    ["empty", Buffer.alloc(0)],
    ["short", Buffer.from("hsq")],
    ["zeros", Buffer.alloc(200_000)],
    ["gzip", Buffer.from([0x1f, 0x8b, 8, 0])],
  ] as const) {
    const path = join(folder, name);
    await writeFile(path, bytes);
    await assert.rejects(inspectRootfs(path), (error: unknown) => {
      assert.ok(error instanceof ImageError);
      assert.equal(error.code, "IMAGE_INVALID");
      assert.ok(error.message.includes(path));
      return true;
    });
  }
});
