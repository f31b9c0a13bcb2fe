import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import fc from "fast-check";

import { ImageStore } from "../../../src/images/store/index.js";
import { copySparse } from "../../../src/images/store/sparse.js";
import { scratch, sha256 } from "../setting.js";

const MIB = 1024 * 1024;

function allocated(path: string): number {
  return statSync(path).blocks * 512;
}

test("a copy has the same bytes and no more disk than its data", async (t) => {
  const folder = scratch(t);
  const [from, to] = [join(folder, "from"), join(folder, "to")];
  writeFileSync(from, randomBytes(3 * MIB));
  truncateSync(from, 200 * MIB);
  await copySparse(from, to);
  assert.equal(statSync(to).size, 200 * MIB);
  assert.ok(readFileSync(to).equals(readFileSync(from)));
  assert.ok(allocated(to) <= 1.05 * allocated(from), `${allocated(to)} against ${allocated(from)}`);
});

test("with extents only those are read, and without a hole at the end the size is still right", async (t) => {
  const folder = scratch(t);
  const from = join(folder, "from");
  const bytes = randomBytes(64 * 1024);
  writeFileSync(from, bytes);
  await copySparse(from, join(folder, "part"), { extents: [[4096, 8192]] });
  const part = readFileSync(join(folder, "part"));
  const reflinked = part.equals(bytes);
  if (!reflinked) {
    assert.ok(part.subarray(4096, 8192).equals(bytes.subarray(4096, 8192)));
    assert.ok(part.subarray(8192).every((byte) => byte === 0));
  }
  assert.equal(part.length, bytes.length);
});

test("whatever the pattern of data and zeros, the copy is the same", async (t) => {
  const folder = scratch(t);
  const [from, to] = [join(folder, "from"), join(folder, "to")];
  const run = fc.record({ zero: fc.boolean(), length: fc.integer({ min: 1, max: 20_000 }) });
  let round = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(run, { maxLength: 12 }), async (runs) => {
      const bytes = Buffer.concat(runs.map(({ zero, length }) => (zero ? Buffer.alloc(length) : randomBytes(length))));
      writeFileSync(from, bytes);
      const target = `${to}${round++}`;
      await copySparse(from, target);
      return readFileSync(target).equals(bytes);
    }),
    { numRuns: 60 },
  );
});

test("a copy never goes over what is there, and an aborted one leaves nothing", async (t) => {
  const folder = scratch(t);
  const [from, to] = [join(folder, "from"), join(folder, "to")];
  writeFileSync(from, randomBytes(8 * MIB));
  writeFileSync(to, "precious");
  await assert.rejects(copySparse(from, to), { code: "EEXIST" });
  assert.equal(readFileSync(to, "utf8"), "precious");
  const reason = new Error("enough");
  await assert.rejects(copySparse(from, join(folder, "other"), { signal: AbortSignal.abort(reason) }), reason);
  const controller = new AbortController();
  const copying = copySparse(from, join(folder, "late"), { signal: controller.signal });
  setImmediate(() => controller.abort(reason));
  const copied = await copying.then(
    () => true, // a reflink is done before anyone could abort it
    (error: unknown) => error !== reason,
  );
  assert.equal(existsSync(join(folder, "late")), copied);
});

test("where a further name can't be a hard link, it is a copy made by the extents that came with the install", async (t) => {
  const folder = scratch(t);
  const store = new ImageStore(join(folder, "images"));
  const make = async (bytes: Buffer, size: number) => {
    const path = await store.temporaryFile("file");
    writeFileSync(path, bytes);
    truncateSync(path, size);
    return { path, extents: [[0, bytes.length]] as const };
  };
  const data = randomBytes(MIB);
  const assets = { kernel: await make(Buffer.from("kernel"), 6), rootfs: await make(data, 512 * MIB) };
  await store.install("built", { assets, origin: { kind: "built" } });
  const digest = (await store.read("built"))?.assets.rootfs.contentDigest ?? "";

  // Memory is another file system than the disk.
  const copy = join(scratch(t, "/dev/shm"), "disk");
  const from = performance.now();
  await store.blobs.link(store.layout.blob(digest), copy, digest);
  t.diagnostic(`512 MiB with 1 MiB of data copied in ${(performance.now() - from).toFixed(1)} ms`);
  assert.equal(statSync(copy).size, 512 * MIB);
  assert.equal(statSync(copy).nlink, 1);
  assert.ok(allocated(copy) <= 1.05 * MIB + 4096);
  assert.equal(sha256(readFileSync(copy).subarray(0, MIB)), sha256(data));
});
