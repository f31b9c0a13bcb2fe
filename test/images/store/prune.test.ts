import assert from "node:assert/strict";
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { processIdentity } from "../../../src/host/process.js";
import { ImageManager } from "../../../src/images/index.js";
import { startEnsure } from "../children/run.js";
import { content, sha256 } from "../setting.js";
import { ownCache } from "./setting.js";

test("a machine's lease gives it the immutable blobs, and keeps its image from being removed and pruned", async (t) => {
  const { manager, store, files, cacheDir } = await ownCache(t);
  const image = await manager.ensureImage("hello");
  const lease = await store.lease([image.kernelPath, "/boot/vmlinuz", image.rootfsPath], { vmId: "vm-1" });
  const [kernel = "", other, rootfs = ""] = lease.paths;
  assert.equal(kernel, join(cacheDir, ".blobs", "sha256", sha256(files.kernel)));
  assert.equal(other, "/boot/vmlinuz");
  assert.equal(statSync(rootfs).ino, statSync(image.rootfsPath).ino);
  await assert.rejects(manager.remove("hello"), {
    code: "IMAGE_IN_USE",
    message: "Image 'hello' is in use by 'vm-1'.",
  });
  assert.deepEqual((await manager.inspect("hello")).leasedBy, ["vm-1"]);
  rmSync(join(cacheDir, "hello"), { recursive: true });
  assert.deepEqual((await manager.prune()).removed, [], "what a machine uses stays, even without a name");
  assert.ok(readFileSync(rootfs).equals(files.rootfs));
  await lease.release();
  const { removed } = await manager.prune();
  assert.deepEqual(
    removed.map(({ what }) => what),
    ["blob", "blob"],
  );
});

test("a lease outlives the process that took it for as long as the machine's folder exists", async (t) => {
  const { manager, store, folder, cacheDir } = await ownCache(t);
  const image = await manager.ensureImage("hello");
  const machine = join(folder, "machines", "vm-2");
  mkdirSync(machine, { recursive: true });
  await store.lease([image.rootfsPath], { vmId: "vm-2" });
  const [file = ""] = readdirSync(join(cacheDir, ".leases"));
  const path = join(cacheDir, ".leases", file);
  const lease = JSON.parse(readFileSync(path, "utf8")) as { process: { pid: number } };
  // As if the process that took it had died: no process has this number.
  writeFileSync(path, JSON.stringify({ ...lease, process: { ...lease.process, pid: 2 ** 22 + 1 } }));
  await assert.rejects(manager.remove("hello"), { code: "IMAGE_IN_USE" });
  rmSync(machine, { recursive: true });
  await manager.remove("hello");
  assert.equal(await manager.isCached("hello"), false);
});

test("a blob that has lost its name is linked anew when a machine wants it", async (t) => {
  const { manager, store, files, cacheDir } = await ownCache(t);
  const image = await manager.ensureImage("hello");
  rmSync(join(cacheDir, ".blobs"), { recursive: true });
  const { paths } = await store.lease([image.rootfsPath], { vmId: "vm-3" });
  assert.ok(readFileSync(paths[0] ?? "").equals(files.rootfs));
  assert.notEqual(paths[0], image.rootfsPath);
});

test("prune removes what is left over, says so before, and counts what the disk gets back", async (t) => {
  const { manager, store, cacheDir, files } = await ownCache(t);
  await manager.ensureImage("hello");
  const orphan = Buffer.alloc(100_000, "x");
  const place = (path: string, bytes: Buffer | string, ageMs: number): void => {
    mkdirSync(join(cacheDir, path, ".."), { recursive: true });
    writeFileSync(join(cacheDir, path), bytes);
    const time = new Date(Date.now() - ageMs);
    utimesSync(join(cacheDir, path), time, time);
  };
  const day = 86_400_000;
  place(`.blobs/sha256/${sha256(orphan)}`, orphan, 0);
  place(".partial/old", "partial", 2 * day);
  place(".partial/old.state", "state", 2 * day);
  place(".partial/new", "partial", 0);
  place(".damaged/one", "damaged", 0);
  linkSync(join(cacheDir, ".damaged/one"), join(cacheDir, ".damaged/the same"));
  place(".locks/someone/dead", JSON.stringify({ ...processIdentity(), started: "never" }), 0);
  place(".tmp/killed/owner.json", JSON.stringify({ ...processIdentity(), started: "never" }), 0);
  place(".tmp/killed/rootfs", "half of one", 0);
  const unfinished = await store.temporaryFile("rootfs");
  writeFileSync(unfinished, "half of one");
  const dry = await manager.prune({ dryRun: true });
  assert.deepEqual(
    dry.removed.map(({ what, path }) => `${what} ${path.slice(cacheDir.length + 1)}`).sort(),
    [
      `blob .blobs/sha256/${sha256(orphan)}`,
      "damaged .damaged/one",
      "damaged .damaged/the same",
      "lock .locks/someone",
      "partial .partial/old",
      "partial .partial/old.state",
      "temporary .tmp/killed",
    ].sort(),
  );
  assert.ok(existsSync(join(cacheDir, ".partial/old")), "a dry run removes nothing");
  assert.equal(
    dry.removed.filter(({ what }) => what === "damaged").reduce((sum, each) => sum + each.allocatedBytes, 0),
    4096,
  );
  const real = await manager.prune();
  assert.deepEqual(real, { ...dry, dryRun: false });
  assert.ok(real.freedBytes >= orphan.length);
  assert.deepEqual(readdirSync(join(cacheDir, ".partial")), ["new"]);
  assert.ok(existsSync(unfinished), "a builder that lives keeps its files");
  assert.deepEqual((await manager.prune()).removed, []);
  assert.ok(readFileSync((await manager.ensureImage("hello", { offline: true })).rootfsPath).equals(files.rootfs));
});

test("a folder of temporary files whose owner is about to say so is left alone", async (t) => {
  const { manager, cacheDir } = await ownCache(t);
  for (const [name, ageMs] of [["young", 0] as const, ["old", 2 * 3_600_000] as const]) {
    const folder = join(cacheDir, ".tmp", name);
    mkdirSync(folder, { recursive: true });
    const time = new Date(Date.now() - ageMs);
    utimesSync(folder, time, time);
  }
  await manager.prune();
  assert.deepEqual(readdirSync(join(cacheDir, ".tmp")), ["young"]);
});

test("folders and files where smolvm keeps something else are skipped or set aside", async (t) => {
  const { manager, cacheDir, registry, files, origin } = await ownCache(t);
  const key = sha256(files.rootfs);
  for (const folder of [
    `.sources/${key}.json`,
    `.leases/folder.json`,
    `.extents/${key}.json`,
    `.locks/${key}/folder`,
    `.tmp/foreign/owner.json`,
    `.stamps/folder.json`,
  ])
    mkdirSync(join(cacheDir, folder, "inside"), { recursive: true });
  writeFileSync(join(cacheDir, ".locks", "commit"), "a file");
  writeFileSync(join(cacheDir, ".damaged"), "a file");
  await manager.prune();
  rmSync(join(cacheDir, ".damaged"));
  writeFileSync(join(cacheDir, ".locks", "commit"), "a file");
  await manager.ensureImage("hello");
  await manager.prune();
  const requests = origin.requests.length;
  rmSync(join(cacheDir, "hello"), { recursive: true });
  await new ImageManager({ cacheDir, registry }).ensureImage("hello");
  assert.equal(origin.requests.length, requests, "what the address served was remembered");
  await manager.remove("hello");
});

test("removing an image leaves what somebody else has put into its folder, and says so", async (t) => {
  const { manager, cacheDir } = await ownCache(t);
  await manager.ensureImage("hello");
  const notes = join(cacheDir, "hello", "notes.txt");
  writeFileSync(notes, "mine");
  const { kept } = await manager.remove("hello");
  assert.deepEqual(kept, [notes]);
  assert.deepEqual(readdirSync(join(cacheDir, "hello")), ["notes.txt"]);
  assert.equal(await manager.isCached("hello"), false);
  await manager.ensureImage("hello");
  assert.equal(readFileSync(notes, "utf8"), "mine");
});

test("a lease that can't be read stops prune before it removes anything", async (t) => {
  const { manager, cacheDir } = await ownCache(t);
  await manager.ensureImage("hello");
  rmSync(join(cacheDir, "hello"), { recursive: true });
  writeFileSync(join(cacheDir, ".leases", "torn.json"), "{");
  await assert.rejects(manager.prune(), { code: "IMAGE_INVALID", message: /torn\.json.* can't be read/ });
  assert.equal(readdirSync(join(cacheDir, ".blobs", "sha256")).length, 2);
});

test("removing an image frees its content unless another image has it too", async (t) => {
  const { origin, files, cacheDir, registry } = await ownCache(t);
  const other = origin.publish("other", { kernel: files.kernel, rootfs: content().rootfs }, { pinned: true });
  const manager = new ImageManager({ cacheDir, registry: { ...registry, other } });
  await manager.ensureImage("hello");
  await manager.ensureImage("other");
  const { freedBytes } = await manager.remove("hello");
  assert.ok(freedBytes >= 90_000 && freedBytes < 200_000, `${freedBytes}`);
  assert.equal(await manager.isCached("hello"), false);
  assert.equal(readdirSync(join(cacheDir, ".blobs", "sha256")).length, 2);
  await manager.ensureImage("other", { offline: true, verify: "full" });
  await assert.rejects(manager.remove("hello"), { code: "IMAGE_NOT_CACHED" });
  await assert.rejects(manager.remove("nope"), { code: "IMAGE_UNKNOWN" });
});

test("prune and installs at the same time: every install succeeds and every image is whole", async (t) => {
  const { origin, files, cacheDir } = await ownCache(t);
  const versions = [files, content()];
  const registries = versions.map((version, index) => ({
    hello: origin.publish("hello", version, { pinned: true, folder: `v${index}` }),
  }));
  const child = startEnsure({ cacheDir, registries, name: "hello", forever: true });
  await child.ready;
  const manager = new ImageManager({ cacheDir, registry: registries[0] ?? {} });
  let pruned = 0;
  for (const until = performance.now() + 1_500; performance.now() < until; pruned++) {
    await manager.prune();
    await new Promise((resolve) => setImmediate(resolve)); // the web server is in this process
  }
  assert.equal(child.process.exitCode, null, child.errors());
  child.process.kill("SIGKILL");
  await child.ended;
  t.diagnostic(`${pruned} prunes against ${origin.requests.length / 2} installs`);
  assert.ok(readFileSync((await manager.ensureImage("hello")).rootfsPath).equals(files.rootfs));
});
