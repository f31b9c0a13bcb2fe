import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { pathToFileURL } from "node:url";

import type { SmolVMError } from "../../../src/errors.js";
import { ImageManager, type ImageSourceFields } from "../../../src/images/index.js";
import { startEnsure } from "../children/run.js";
import { content, type Content, Origin, scratch, sha256 } from "../setting.js";

/** Instants of death: per normal run, and when there is time. */
const KILLS = process.env["SMOLVM_TEST_LONG"] === "1" ? 4_000 : 300;
/** How long after it begins a child may live. An install of these images takes some 10 to 20 ms. */
const LIFE_MS = 40;

type Registry = Readonly<Record<string, ImageSourceFields>>;

test("killed at any instant of an install, the cache holds the old image or the new one and the next call succeeds", async (t) => {
  const origin = await Origin.start(t);
  const versions = [content(60_000, 300_000), content(60_000, 300_000)];
  const overHttp: Registry[] = versions.map((files, index) => ({
    hello: origin.publish("hello", files, { pinned: true, folder: `v${index}` }),
  }));
  const fromFiles = versions.map((files) => ({ hello: publishFiles(scratch(t), files) }));
  const counts = { kills: 0, whole: 0, repaired: 0, absent: 0 };
  await Promise.all(
    [fromFiles, overHttp, fromFiles].map(async (registries) => {
      while (counts.kills < KILLS) await killSeries(t, versions, registries, counts);
    }),
  );
  t.diagnostic(`kill -9 at ${counts.kills} random instants: ${JSON.stringify(counts)}`);
  assert.ok(counts.whole > 0 && counts.absent > 0);
});

function publishFiles(folder: string, { kernel, rootfs }: Content): ImageSourceFields {
  writeFileSync(join(folder, "kernel"), kernel);
  writeFileSync(join(folder, "rootfs"), rootfs);
  return {
    name: "hello",
    kernelUrl: pathToFileURL(join(folder, "kernel")).href,
    kernelSha256: sha256(kernel),
    rootfsUrl: pathToFileURL(join(folder, "rootfs")).href,
    rootfsSha256: sha256(rootfs),
  };
}

/** A cache that lives through ten deaths, the first of them while it is empty. */
async function killSeries(
  t: TestContext,
  versions: readonly Content[],
  registries: readonly Registry[],
  counts: { kills: number; whole: number; repaired: number; absent: number },
): Promise<void> {
  const cacheDir = join(scratch(t), "images");
  const managers = registries.map((registry) => new ImageManager({ cacheDir, registry }));
  for (let round = 0; round < 10 && counts.kills < KILLS; round++) {
    const child = startEnsure({ cacheDir, registries, name: "hello", forever: true });
    await child.ready;
    // The first rounds end in the first install, which is the one into an empty folder.
    await new Promise((resolve) => setTimeout(resolve, Math.random() * (round < 3 ? LIFE_MS / 3 : LIFE_MS)));
    child.process.kill("SIGKILL");
    await child.ended;
    counts.kills += 1;
    const state = await holds(cacheDir, managers, versions);
    counts[state] += 1;
    if (round < 3 && state === "absent") continue;
    const next = Math.floor(Math.random() * versions.length);
    const image = await managers[next]?.ensureImage("hello");
    assert.ok(image && readFileSync(image.kernelPath).equals(versions[next]?.kernel ?? Buffer.alloc(0)));
    assert.ok(readFileSync(image.rootfsPath).equals(versions[next]?.rootfs ?? Buffer.alloc(0)));
  }
}

/** What a program finds that comes after the death, with no network to help it. */
async function holds(
  cacheDir: string,
  managers: readonly ImageManager[],
  versions: readonly Content[],
): Promise<"whole" | "repaired" | "absent"> {
  const files = ["vmlinux.bin", "rootfs.ext4"].map((file) => readOrNull(join(cacheDir, "hello", file)));
  if (files.every((file) => file === null)) return "absent";
  const matching = (pair: readonly (Buffer | null)[]): number =>
    versions.findIndex(({ kernel, rootfs }) => pair[0]?.equals(kernel) && pair[1]?.equals(rootfs));
  const before = matching(files);
  let usable = 0;
  for (const [index, manager] of managers.entries()) {
    const image = await manager.ensureImage("hello", { offline: true }).catch((error: unknown) => {
      assert.equal((error as SmolVMError).code, "IMAGE_NOT_CACHED");
      return null;
    });
    if (image === null) continue;
    usable += 1;
    assert.equal(matching([readOrNull(image.kernelPath), readOrNull(image.rootfsPath)]), index);
  }
  assert.ok(usable > 0, "neither the old image nor the new one can be used without the network");
  return before === -1 ? "repaired" : "whole";
}

function readOrNull(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
