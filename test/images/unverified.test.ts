import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { ImageError } from "../../src/errors.js";
import { ImageManager } from "../../src/images/index.js";
import { content, flipByte, Origin, scratch, sha256 } from "./setting.js";

/** The warnings of this process while a test runs. */
function warnings(t: TestContext): Error[] {
  const seen: Error[] = [];
  const note = (warning: Error): void => void seen.push(warning);
  process.on("warning", note);
  t.after(() => process.off("warning", note));
  return seen;
}

async function setting(t: TestContext, name: string) {
  const origin = await Origin.start(t);
  const files = content();
  const cacheDir = join(scratch(t), "images");
  const registry = { [name]: origin.publish(name, files, { pinned: false }) };
  return { origin, files, cacheDir, registry, manager: new ImageManager({ cacheDir, registry }) };
}

test("a source without digests is used, with one warning that has a code", async (t) => {
  const seen = warnings(t);
  const { manager, files, cacheDir, registry } = await setting(t, "unpinned-once");
  const image = await manager.ensureImage("unpinned-once");
  assert.ok(readFileSync(image.rootfsPath).equals(files.rootfs));
  rmSync(cacheDir, { recursive: true });
  await new ImageManager({ cacheDir, registry }).ensureImage("unpinned-once");
  await new Promise((resolve) => setImmediate(resolve));
  const ours = seen.filter((warning) => (warning as NodeJS.ErrnoException).code === "SMOLVM_UNVERIFIED_IMAGE");
  assert.equal(ours.length, 1);
  assert.match(ours[0]?.message ?? "", /'unpinned-once' could not be verified: .* kernel and the rootfs/);
});

test("what it served is remembered: other bytes later are refused until they are accepted", async (t) => {
  const { manager, origin, files, cacheDir } = await setting(t, "unpinned-changed");
  await manager.ensureImage("unpinned-changed");
  const next = content();
  origin.publish("unpinned-changed", { kernel: files.kernel, rootfs: next.rootfs }, { pinned: false });
  await manager.remove("unpinned-changed");
  const error: unknown = await manager.ensureImage("unpinned-changed").catch((thrown: unknown) => thrown);
  assert.ok(error instanceof ImageError);
  assert.equal(error.code, "IMAGE_CHECKSUM_MISMATCH");
  assert.equal(
    error.message,
    `SHA-256 mismatch for ${origin.url("/unpinned-changed/rootfs.ext4")}\n  expected: ${sha256(files.rootfs)}\n  actual:   ${sha256(next.rootfs)}`,
  );
  assert.match(error.hint ?? "", /serves other bytes than before.*smolvm image pull --accept-new unpinned-changed/);
  assert.equal(await manager.isCached("unpinned-changed"), false);
  await assert.rejects(manager.ensureImage("unpinned-changed"), { code: "IMAGE_CHECKSUM_MISMATCH" });
  const requests = origin.requests.length;
  const image = await manager.ensureImage("unpinned-changed", { acceptNew: true });
  assert.equal(origin.requests.length, requests, "what was refused is still here, and needs no second download");
  assert.ok(readFileSync(image.rootfsPath).equals(next.rootfs));
  rmSync(join(cacheDir, "unpinned-changed"), { recursive: true });
  rmSync(join(cacheDir, ".blobs"), { recursive: true });
  await manager.ensureImage("unpinned-changed");
});

test("a damaged file of an unverified image is put right by the same bytes, and not by others", async (t) => {
  const { manager, origin, files } = await setting(t, "unpinned-damaged");
  const { kernelPath } = await manager.ensureImage("unpinned-damaged");
  flipByte(kernelPath, 0);
  assert.ok(readFileSync((await manager.ensureImage("unpinned-damaged")).kernelPath).equals(files.kernel));
  flipByte(kernelPath, 0);
  origin.publish("unpinned-damaged", { kernel: content().kernel, rootfs: files.rootfs }, { pinned: false });
  await assert.rejects(manager.ensureImage("unpinned-damaged"), { code: "IMAGE_CHECKSUM_MISMATCH" });
  assert.equal(await manager.isCached("unpinned-damaged"), false, "the damaged file is not served");
});

test("once the registry pins the digest, the image that is here is held to it", async (t) => {
  const { manager, origin, files, cacheDir } = await setting(t, "later-pinned");
  await manager.ensureImage("later-pinned");
  const pinned = new ImageManager({
    cacheDir,
    registry: { "later-pinned": origin.publish("later-pinned", files, { pinned: true }) },
  });
  const requests = origin.requests.length;
  await pinned.ensureImage("later-pinned");
  assert.equal(origin.requests.length, requests, "the right bytes are not fetched again");
  const other = new ImageManager({
    cacheDir,
    registry: { "later-pinned": origin.publish("later-pinned", content(), { pinned: true }) },
  });
  await other.ensureImage("later-pinned");
  assert.equal(origin.requests.length, requests + 2);
});
