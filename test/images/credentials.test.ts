import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";

import { ImageError, SmolVMError } from "../../src/errors.js";
import { ImageManager, type ImageSourceFields, loadRegistry } from "../../src/images/index.js";
import { content, flipByte, Origin, scratch } from "./setting.js";

const [NAME, PASSWORD] = ["reader", "hunter2-not-for-others"];

function withCredentials(source: ImageSourceFields): ImageSourceFields {
  const add = (url: string): string => url.replace("http://", `http://${NAME}:${PASSWORD}@`);
  return { ...source, kernelUrl: add(source.kernelUrl), rootfsUrl: add(source.rootfsUrl) };
}

for (const pinned of [true, false]) {
  test(`a password in an address is used and never written down (${pinned ? "pinned" : "not pinned"})`, async (t) => {
    const origin = await Origin.start(t);
    origin.credentials = `${NAME}:${PASSWORD}`;
    const folder = scratch(t);
    const source = withCredentials(origin.publish("private", content(), { pinned }));
    const manager = new ImageManager({ cacheDir: join(folder, "images"), registry: { private: source } });
    const image = await manager.ensureImage("private");
    await manager.exportArchive("private", join(folder, "private.tar"));

    const written = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    assert.ok(written.length > 5, "the cache and the archive have files to look into");
    for (const file of written) {
      const bytes = readFileSync(join(file.parentPath, file.name));
      assert.ok(!bytes.includes(PASSWORD), `${file.name} holds the password`);
    }
    for (const said of [await manager.list(), await manager.inspect("private")]) {
      assert.ok(!JSON.stringify(said).includes(PASSWORD), JSON.stringify(said));
    }

    // The same source goes on to be recognized, and what is damaged is fetched again with the password.
    const before = origin.requests.length;
    await manager.ensureImage("private");
    assert.equal(origin.requests.length, before);
    flipByte(image.rootfsPath, 1000);
    await manager.ensureImage("private");
    assert.equal(origin.fromStart("/private/rootfs.ext4"), 2);
  });
}

test("an error that speaks of an address leaves the password out", async (t) => {
  const origin = await Origin.start(t);
  const source = withCredentials(origin.publish("private", content(), { pinned: false }));
  const registry = { private: { ...source, rootfsUrl: source.rootfsUrl.replace("rootfs", "missing") } };
  const manager = new ImageManager({ cacheDir: join(scratch(t), "images"), registry });
  for (const options of [{}, { offline: true }]) {
    await assert.rejects(manager.ensureImage("private", options), (error: unknown) => {
      assert.ok(error instanceof ImageError);
      assert.ok(!inspect(error, { depth: 5 }).includes(PASSWORD), inspect(error, { depth: 5 }));
      return true;
    });
  }
});

test("a registry is fetched with the password in its address, which nothing shows", async (t) => {
  const origin = await Origin.start(t);
  origin.credentials = `${NAME}:${PASSWORD}`;
  const address = (path: string): string => origin.url(path).replace("http://", `http://${NAME}:${PASSWORD}@`);
  origin.files.set("/good", Buffer.from("{}"));
  origin.files.set("/no-json", Buffer.from("{"));
  origin.files.set("/wrong", Buffer.from('{"a": {"kernelUrl": 5}}'));
  origin.files.set("/unknown", Buffer.from('{"a": {"b": 5}}'));
  origin.files.set("/large", Buffer.alloc(5 * 1024 * 1024, " "));
  assert.deepEqual(await loadRegistry(address("/good")), {});
  const unreadable = [`http://${NAME}:${PASSWORD}#1@127.0.0.1/r`, `htp://${NAME}:${PASSWORD}@127.0.0.1/r`];
  for (const from of [...["/no-json", "/wrong", "/unknown", "/large", "/absent"].map(address), ...unreadable]) {
    await assert.rejects(loadRegistry(from), (error: unknown) => {
      assert.ok(error instanceof SmolVMError);
      const { message, hint, details } = error;
      const said = inspect({ message, hint, details }, { depth: 5 });
      assert.ok(said.includes("127.0.0.1"), said);
      assert.ok(!said.includes(PASSWORD), said);
      return true;
    });
  }
});
