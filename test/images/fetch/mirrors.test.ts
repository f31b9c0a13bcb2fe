import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";

import { transferWith } from "../../../src/images/fetch/transfer.js";
import { ImageManager } from "../../../src/images/index.js";
import { TestServer } from "../../fixtures/servers/server.js";
import { content, Origin, scratch } from "../setting.js";
import { Folder, policyFor, sampleBytes, sha256 } from "./setting.js";

const OLD = sampleBytes(50_000, 1);
const NEW = sampleBytes(50_000, 2);
const serving = (bytes: Buffer | null): Promise<TestServer> =>
  TestServer.start((_request, reply) => (bytes === null ? reply.status(404) : reply.file(bytes)));

void suite("mirrors of what has no digest", () => {
  for (const [told, mirror, origin, gives] of [
    ["nothing is remembered: the mirror that was named is relied on", NEW, OLD, NEW],
    ["the mirror has what is remembered: the address is not asked", OLD, NEW, OLD],
    ["the mirror has other bytes: the address is asked, and has what is remembered", NEW, OLD, OLD],
    ["both have other bytes: those of the address are given back for the caller to judge", NEW, NEW, NEW],
  ] as const) {
    test(told, async () => {
      using folder = new Folder();
      await using first = await serving(mirror);
      await using last = await serving(origin);
      const remembered = told.startsWith("nothing") ? null : sha256(OLD);
      const urls = [`${first.origin}/a`, `${last.origin}/a`];
      const request = { urls, digest: null, remembered, partial: folder.file("p") };
      const result = await transferWith(request, policyFor("fast"));
      assert.equal(result.digest, sha256(gives));
      assert.equal(last.requests.length, result.url === urls[0] ? 0 : 1);
    });
  }

  test("a mirror with other bytes, where the address itself can't be asked, is a mismatch that says so", async () => {
    using folder = new Folder();
    await using first = await serving(NEW);
    await using last = await serving(null);
    const urls = [`${first.origin}/a`, `${last.origin}/a`];
    const request = { urls, digest: null, remembered: sha256(OLD), partial: folder.file("p") };
    await assert.rejects(transferWith(request, policyFor("fast")), {
      code: "IMAGE_CHECKSUM_MISMATCH",
      message: `SHA-256 mismatch for ${first.origin}/a\n  expected: ${sha256(OLD)}\n  actual:   ${sha256(NEW)}`,
      hint: /the address itself could not be asked/,
    });
  });

  test("an image whose mirror falls behind is brought by its address, and what is accepted as new is its own", async (t) => {
    const [origin, mirror] = [await Origin.start(t), await Origin.start(t)];
    const [before, after] = [content(), content()];
    const source = { ...origin.publish("tied", before, { pinned: false }), mirrors: [mirror.url("")] };
    mirror.publish("tied", before, { pinned: false });
    const cacheDir = join(scratch(t), "images");
    const manager = new ImageManager({ cacheDir, registry: { tied: source } });
    await manager.ensureImage("tied");
    assert.equal(origin.requests.length, 0);
    await manager.remove("tied");
    await manager.prune();
    mirror.publish("tied", after, { pinned: false });
    assert.ok(readFileSync((await manager.ensureImage("tied")).rootfsPath).equals(before.rootfs));
    await manager.remove("tied");
    await manager.prune();

    // The address has something new; the mirror has not.
    origin.publish("tied", after, { pinned: false });
    mirror.publish("tied", before, { pinned: false });
    const image = await manager.ensureImage("tied", { acceptNew: true });
    assert.ok(readFileSync(image.rootfsPath).equals(after.rootfs));
  });
});
