import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ownCache } from "./setting.js";

test("a lease of a container into which nobody can look lasts as long as its process gives a sign", async (t) => {
  const { manager, store, cacheDir } = await ownCache(t);
  const image = await manager.ensureImage("hello");
  t.mock.timers.enable({ apis: ["setInterval"] });
  const lease = await store.lease([image.rootfsPath], { vmId: "vm-4" });
  const [file = ""] = readdirSync(join(cacheDir, ".leases"));
  const path = join(cacheDir, ".leases", file);
  const record = JSON.parse(readFileSync(path, "utf8")) as { process: { scope: object } };
  const scope = { ...record.process.scope, namespace: "pid:[1]" };
  writeFileSync(path, JSON.stringify({ ...record, process: { ...record.process, scope } }));
  const yesterday = new Date(Date.now() - 25 * 3_600_000);
  utimesSync(path, yesterday, yesterday);
  t.mock.timers.tick(3_600_000);
  t.mock.timers.reset();
  await assert.rejects(manager.remove("hello"), { code: "IMAGE_IN_USE" });
  await lease.release();
  await manager.remove("hello");
});

test("a detached machine's lease is kept fresh by whoever sees the machine", async (t) => {
  const { manager, store, folder, cacheDir } = await ownCache(t);
  const image = await manager.ensureImage("hello");
  mkdirSync(join(folder, "machines", "vm-5"), { recursive: true });
  await store.lease([image.rootfsPath], { vmId: "vm-5" });
  const [file = ""] = readdirSync(join(cacheDir, ".leases"));
  const path = join(cacheDir, ".leases", file);
  const lease = JSON.parse(readFileSync(path, "utf8")) as { process: { pid: number } };
  writeFileSync(path, JSON.stringify({ ...lease, process: { ...lease.process, pid: 2 ** 22 + 1 } }));
  const yesterday = new Date(Date.now() - 23 * 3_600_000);
  utimesSync(path, yesterday, yesterday);
  await manager.inspect("hello");
  assert.ok(Date.now() - statSync(path).mtimeMs < 60_000);
});
