import assert from "node:assert/strict";
import { chmodSync, lstatSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import fc from "fast-check";

import { SmolVMError } from "../../../src/errors.js";
import { ImageManager } from "../../../src/images/index.js";
import { Layout } from "../../../src/images/store/layout.js";
import { statOrNull } from "../../../src/images/store/look.js";
import { parseRecord } from "../../../src/images/store/record.js";
import { Stamps } from "../../../src/images/store/stamps.js";
import { content, flipByte, Origin, scratch, sha256 } from "../setting.js";

async function setting(t: TestContext) {
  const origin = await Origin.start(t);
  const files = content();
  const cacheDir = join(scratch(t), "images");
  const registry = { hello: origin.publish("hello", files, { pinned: true }) };
  const image = await new ImageManager({ cacheDir, registry }).ensureImage("hello");
  return { origin, files, cacheDir, registry, image };
}

test("a flipped bit is found wherever it is, though size and modification time are as before", async (t) => {
  const { files, cacheDir, registry, image } = await setting(t);
  const size = files.rootfs.length;
  const places: Record<string, number> = {
    "first byte": 0,
    "end of the first block": 4095,
    "begin of the second block": 4096,
    superblock: 1024,
    "before a hole": 89_999,
    "in a hole": 120_000,
    "after a hole": size - 5_000,
    "middle of a read": 65_537,
    "last byte": size - 1,
  };
  let tried = 0;
  for (const [what, position] of Object.entries(places)) {
    for (const mask of [0x01, 0x80]) {
      const before = lstatSync(image.rootfsPath);
      flipByte(image.rootfsPath, position, mask);
      chmodSync(image.rootfsPath, before.mode);
      utimesSync(image.rootfsPath, before.atimeMs / 1000, before.mtimeMs / 1000);
      const manager = new ImageManager({ cacheDir, registry });
      assert.deepEqual(
        (await manager.verify("hello")).assets.map(({ ok }) => ok),
        [true, false],
        what,
      );
      await manager.ensureImage("hello");
      assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs), what);
      tried += 1;
    }
  }
  t.diagnostic(`${tried} flipped bits, each found without reading what had not changed`);
});

test("a write right after the install is found, although the clock has hardly moved", async (t) => {
  const { files, cacheDir, registry, image } = await setting(t);
  for (let round = 0; round < 20; round++) {
    flipByte(image.kernelPath, round);
    const manager = new ImageManager({ cacheDir, registry });
    await manager.ensureImage("hello");
    assert.ok(readFileSync(image.kernelPath).equals(files.kernel), `round ${round}`);
  }
});

test("a file cut short, grown or emptied is put right", async (t) => {
  const { files, cacheDir, registry, image } = await setting(t);
  const manager = new ImageManager({ cacheDir, registry });
  for (const size of [0, 1, files.kernel.length - 1, files.kernel.length + 1]) {
    chmodSync(image.kernelPath, 0o644);
    truncateSync(image.kernelPath, size);
    await manager.ensureImage("hello");
    assert.ok(readFileSync(image.kernelPath).equals(files.kernel), `${size} bytes`);
  }
});

test("with the clock set back, a change is found and a file that did not change is used", async (t) => {
  const { origin, files, cacheDir, registry, image } = await setting(t);
  const past = new Date(Date.now() - 86_400_000);
  utimesSync(image.kernelPath, past, past);
  await new ImageManager({ cacheDir, registry }).ensureImage("hello");
  const requests = origin.requests.length;
  flipByte(image.kernelPath, 7);
  utimesSync(image.kernelPath, past, past);
  await new ImageManager({ cacheDir, registry }).ensureImage("hello");
  assert.ok(readFileSync(image.kernelPath).equals(files.kernel));
  assert.equal(origin.requests.length, requests + 1);
});

test("a stamp says nothing of a file that it was not made for", async (t) => {
  const { cacheDir, registry, image, files } = await setting(t);
  const manager = new ImageManager({ cacheDir, registry });
  await manager.ensureImage("hello");
  chmodSync(image.kernelPath, 0o644);
  writeFileSync(image.kernelPath, Buffer.alloc(files.kernel.length));
  const { assets } = await manager.verify("hello");
  assert.deepEqual(
    assets.map(({ ok }) => ok),
    [false, true],
  );
  assert.equal((await manager.inspect("hello")).assets[0]?.verifiedAt, null);
});

test("what no stat can show, a disk that rots, is found by a full verification and put right", async (t) => {
  const { files, cacheDir, registry, image } = await setting(t);
  flipByte(image.rootfsPath, 100);
  const stamps = new Stamps(new Layout(cacheDir));
  const stat = statOrNull(image.rootfsPath);
  assert.ok(stat && (await stamps.settle(stat)));
  stamps.record(sha256(files.rootfs), stat, new Date().toISOString());
  const manager = new ImageManager({ cacheDir, registry });
  await manager.ensureImage("hello");
  assert.ok(!readFileSync(image.rootfsPath).equals(files.rootfs), "the stamp says that nothing was written");
  await manager.ensureImage("hello", { verify: "full" });
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
});

test("whatever a fuzzer does to image.json, the image is used, put right or refused with a typed error", async (t) => {
  const { files, cacheDir, registry, image } = await setting(t);
  const path = join(cacheDir, "hello", "image.json");
  const original = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  const value = fc.oneof(fc.jsonValue(), fc.constant("../../etc"), fc.constant("f".repeat(64)), fc.nat());
  const mutation = fc.record({
    at: fc.constantFrom("kernel", "rootfs", "top"),
    key: fc.constantFrom(...keys()),
    value,
  });
  let tried = 0;
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.jsonValue(), fc.array(mutation, { minLength: 1, maxLength: 4 })), async (what) => {
      tried += 1;
      writeFileSync(path, JSON.stringify(isMutations(what) ? mutate(original, what) : what));
      const manager = new ImageManager({ cacheDir, registry });
      try {
        await manager.ensureImage("hello", { offline: true });
        return readFileSync(image.rootfsPath).equals(files.rootfs);
      } catch (error) {
        if (!(error instanceof SmolVMError)) throw error;
        await manager.ensureImage("hello");
        return readFileSync(image.rootfsPath).equals(files.rootfs);
      }
    }),
    { numRuns: 200 },
  );
  t.diagnostic(`${tried} damaged image.json`);
});

test("a record is taken only if every field of it is what it must be", () => {
  const asset = { contentDigest: "a".repeat(64), size: 1, url: null, digest: null };
  const record = {
    format: 1,
    name: "hello",
    assets: { kernel: asset, rootfs: asset },
    bootArgs: null,
    origin: { kind: "built", details: { suite: "bookworm" } },
    installedAt: "2026-01-01T00:00:00.000Z",
  };
  assert.notEqual(parseRecord(record, "hello"), null);
  const wrong: unknown[] = [
    null,
    { ...record, name: "other" },
    { ...record, format: "1" },
    { ...record, assets: { kernel: asset } },
    { ...record, assets: { kernel: asset, rootfs: asset, initrd: null } },
    { ...record, assets: { kernel: asset, rootfs: { ...asset, contentDigest: "../x" } } },
    { ...record, assets: { kernel: asset, rootfs: { ...asset, contentDigest: "A".repeat(64) } } },
    { ...record, assets: { kernel: asset, rootfs: { ...asset, size: -1 } } },
    { ...record, assets: { kernel: asset, rootfs: { ...asset, digest: 7 } } },
    { ...record, origin: { kind: "stolen" } },
    { ...record, origin: { kind: "built", details: { x: 1 } } },
    { ...record, bootArgs: 1 },
    { ...record, bootArgs: "a".repeat(1537) },
    { ...record, bootArgs: "two\nlines" },
    { ...record, assets: { kernel: asset, rootfs: { ...asset, url: "gopher://host/" } } },
    { ...record, assets: { kernel: asset, rootfs: { ...asset, url: "http://host/\u0007" } } },
    { ...record, installedAt: undefined },
    { ...record, installedAt: "yesterday" },
  ];
  for (const value of wrong) assert.equal(parseRecord(value, "hello"), null, JSON.stringify(value));
});

interface Mutation {
  readonly at: string;
  readonly key: string;
  readonly value: unknown;
}

function keys(): string[] {
  return [
    "contentDigest",
    "size",
    "url",
    "digest",
    "format",
    "name",
    "assets",
    "bootArgs",
    "origin",
    "installedAt",
    "x",
  ];
}

function isMutations(value: unknown): value is Mutation[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((each: unknown) => typeof each === "object" && each !== null && "at" in each)
  );
}

function mutate(original: Record<string, unknown>, mutations: readonly Mutation[]): unknown {
  const copy = structuredClone(original) as Record<string, unknown> & { assets?: unknown };
  for (const { at, key, value } of mutations) {
    const assets = copy.assets as Record<string, Record<string, unknown>> | null;
    const target = at === "top" || typeof assets !== "object" ? copy : (assets?.[at] ?? copy);
    target[key] = value;
  }
  return copy;
}
