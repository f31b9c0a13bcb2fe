import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { acquireLock, isLocked } from "../../../src/images/store/locks.js";
import { scratch } from "../setting.js";

const CONTENDER = fileURLToPath(new URL("../children/contender.js", import.meta.url));

test("of many processes and many calls that want a lock, one has it at a time", async (t) => {
  const folder = scratch(t);
  const lock = join(folder, "lock");
  const witness = join(folder, "witness");
  const rounds = 40;
  const children = Array.from({ length: 6 }, () =>
    spawn(process.execPath, [CONTENDER, lock, witness, String(rounds)], { stdio: ["ignore", "ignore", "inherit"] }),
  );
  const statuses = await Promise.all(children.map((child) => once(child, "exit")));
  assert.deepEqual(
    statuses.map(([status]) => status as number),
    children.map(() => 0),
  );
  assert.equal(readFileSync(witness, "utf8").length, children.length * rounds, "every turn was counted");
  t.diagnostic(`${children.length} processes took the lock ${rounds} times each, never two at once`);
});

test("calls of one process wait for each other, and the next is woken at once", async (t) => {
  const folder = join(scratch(t), "lock");
  let holders = 0;
  let most = 0;
  await Promise.all(
    Array.from({ length: 20 }, async () => {
      const lock = await acquireLock(folder);
      holders += 1;
      most = Math.max(most, holders);
      await new Promise((resolve) => setImmediate(resolve));
      holders -= 1;
      lock.release();
    }),
  );
  assert.equal(most, 1);
  assert.ok(!existsSync(folder), "the last one leaves nothing");
});

test("a lock whose holder was killed is taken over at once", async (t) => {
  const folder = join(scratch(t), "lock");
  const child = spawn(process.execPath, [CONTENDER, folder, "-", "hold"], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
  assert.ok(isLocked(folder));
  child.kill("SIGKILL");
  await once(child, "exit");
  const from = performance.now();
  const lock = await acquireLock(folder);
  assert.ok(performance.now() - from < 500);
  lock.release();
});

test("a lock of another host holds for as long as its heartbeat can be hoped for, whatever the clock says", async (t) => {
  const folder = join(scratch(t), "lock");
  const identity = { pid: 1, started: "0", scope: { host: "elsewhere", boot: "b", namespace: "n" } };
  mkdirSync(folder);
  const announcement = join(folder, "0000000000000000");
  writeFileSync(announcement, JSON.stringify(identity));
  for (const time of [new Date(0), new Date(), new Date(Date.now() + 86_400_000)]) {
    utimesSync(announcement, time, time);
    const waiting = acquireLock(folder, AbortSignal.timeout(150));
    await assert.rejects(waiting, { name: "TimeoutError" });
    assert.deepEqual(readdirSync(folder), ["0000000000000000"]);
  }
});

test("a holder that others have taken for dead is told, within two heartbeats", async (t) => {
  const folder = join(scratch(t), "lock");
  const lock = await acquireLock(folder);
  for (const file of readdirSync(folder)) rmSync(join(folder, file));
  const other = await acquireLock(folder);
  const deadline = setTimeout(() => undefined, 6_500);
  await once(lock.lost, "abort", { signal: AbortSignal.timeout(6_500) });
  clearTimeout(deadline);
  lock.release();
  assert.ok(isLocked(folder), "the one who lost it does not take the other's lock away");
  other.release();
});

test("a wait for a lock ends with the caller's own reason", async (t) => {
  const folder = join(scratch(t), "lock");
  const lock = await acquireLock(folder);
  const controller = new AbortController();
  const reason = new Error("enough");
  const waiting = acquireLock(folder, controller.signal);
  setTimeout(() => controller.abort(reason), 20);
  const from = performance.now();
  await assert.rejects(waiting, reason);
  assert.ok(performance.now() - from < 120);
  lock.release();
});
