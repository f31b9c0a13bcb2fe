import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";

import { ImageManager } from "../../../src/images/index.js";
import type { RefusedOrder } from "../children/refused.js";
import { content, Origin, scratch } from "../setting.js";

const PROGRAM = fileURLToPath(new URL("../children/refused.js", import.meta.url));
/** Mounts that only the child sees, and that end with it. Root in its own user namespace, so that anybody may. */
const NAMESPACE = ["--user", "--map-root-user", "--mount"];

/** Runs a scenario where it may mount file systems. */
async function run(t: TestContext, scenario: RefusedOrder["scenario"], namespace: boolean): Promise<unknown> {
  const origin = await Origin.start(t);
  const versions = [content(60_000, 300_000), content(60_000, 300_000)];
  const [first, second] = versions.map((files, index) => ({
    hello: origin.publish("hello", files, { pinned: true, folder: `v${index}` }),
  }));
  assert.ok(first && second);
  const folder = join(scratch(t), "work");
  mkdirSync(folder);
  const order: RefusedOrder = { scenario, folder, registries: [first, second] };
  const program = [process.execPath, "--no-warnings", PROGRAM, JSON.stringify(order)];
  const [command = "", ...args] = namespace ? ["unshare", ...NAMESPACE, ...program] : program;
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const [status] = (await once(child, "close")) as [number | null];
  assert.equal(status, 0, "the scenario ran to its end");
  return JSON.parse(output);
}

/** Where mounting is forbidden (some containers, and systems other than Linux) there is nothing to make trouble with. */
function canMount(t: TestContext): boolean {
  const possible = spawnSync("unshare", [...NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status === 0;
  if (!possible) t.diagnostic("not tried: this system lets nobody mount a file system of his own");
  return possible;
}

test("a disk that is full at any point of an install is an IMAGE_NO_SPACE, and the image that was there stays whole", async (t) => {
  if (!canMount(t)) return;
  const found = (await run(t, "full", true)) as Record<string, Record<string, unknown>>;
  const messages = new Set<string>();
  const sizes = Object.entries(found);
  assert.equal(sizes.pop()?.[1]["refused"], "ok", "the last one had room");
  for (const [size, { refused, visible, ...after }] of sizes) {
    messages.add(String(refused).replaceAll(/\/tmp\/\S+|[\d.]+/g, "…"));
    assert.match(String(refused), /^ImageError IMAGE_NO_SPACE .*(free|space)/i, size);
    assert.equal(visible, false, size);
    assert.match(String(after["replacing"]), /^ImageError IMAGE_NO_SPACE /, size);
    assert.deepEqual(
      { ...after, replacing: "" },
      { withRoom: "ok", replacing: "", before: "ok", replaced: "ok", pruned: "ok", removed: "ok" },
      size,
    );
  }
  t.diagnostic(`${sizes.length} sizes of disk, ${messages.size} places where it was full`);
});

const REFUSED = /^HostError HOST_PERMISSION The image cache '.*images' can't be used: (EROFS|EACCES|EPERM)/;

for (const [what, scenario] of [
  ["is mounted read-only", "readOnly"],
  ["belongs to someone else", "denied"],
] as const) {
  test(`a cache that ${what} serves what it has, and refuses what it can't take with an error that names it`, async (t) => {
    if (scenario === "readOnly" && !canMount(t)) return;
    const { cached, full, lease, foreign, list, ...refused } = (await run(
      t,
      scenario,
      scenario === "readOnly",
    )) as Record<string, string>;
    assert.deepEqual(
      { cached, full, lease, foreign, list },
      { cached: "ok", full: "ok", lease: true, foreign: "ok", list: "ok" },
    );
    assert.deepEqual(Object.keys(refused).sort(), ["install", "prune", "remove"]);
    for (const [call, result] of Object.entries(refused)) assert.match(result, REFUSED, call);
  });
}

test("a cache whose parts are on several file systems works, with copies for links", async (t) => {
  if (!canMount(t)) return;
  const { outcomes, ...rest } = (await run(t, "severalDisks", true)) as { outcomes: string[] };
  assert.deepEqual(
    outcomes,
    outcomes.map(() => "ok"),
  );
  assert.deepEqual(rest, { holesKept: true, consumed: [] });
});

test("a file where the cache folder should be is an error that names it", async (t) => {
  const cacheDir = join(scratch(t), "images");
  writeFileSync(cacheDir, "not a folder");
  const origin = await Origin.start(t);
  const manager = new ImageManager({
    cacheDir,
    registry: { hello: origin.publish("hello", content(), { pinned: true }) },
  });
  assert.equal(await manager.isCached("hello"), false);
  await assert.rejects(manager.ensureImage("hello"), {
    name: "HostError",
    code: "HOST_IO",
    message: new RegExp(cacheDir),
  });
});
