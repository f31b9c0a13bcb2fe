import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { acquireLock, isLocked, tryLock } from "../../src/host/lock.js";
import { processIdentity } from "../../src/host/process.js";
import { scratch } from "../images/setting.js";

const CONTENDER = fileURLToPath(new URL("./contender.js", import.meta.url));

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
  const took = performance.now() - from;
  t.diagnostic(`taken over after ${Math.round(took)} ms`);
  assert.ok(took < 10_000, `${took} ms`); // by its heartbeat alone it would have lasted three times as long
  lock.release();
});

test("a lock that can't be marked as held is let go, and the next one has it", async (t) => {
  const folder = join(scratch(t), "lock");
  const first = await acquireLock(folder);
  const before = readdirSync(folder);
  const second = acquireLock(folder);
  second.catch(() => undefined); // awaited below
  let own: string | undefined;
  while ((own = readdirSync(folder).find((name) => !before.includes(name))) === undefined) await pause(1);
  // Where its mark would be. A disk without room for one more file answers as this does.
  symlinkSync(join("nowhere", "mark"), join(folder, `${own}.holds`));
  first.release();
  await assert.rejects(second, { code: /^E/ });
  assert.ok(!isLocked(folder));
  (await acquireLock(folder, AbortSignal.timeout(20_000))).release();
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
  const from = performance.now();
  const deadline = setTimeout(() => undefined, 25_000); // shorter than what others take it for dead after
  await once(lock.lost, "abort", { signal: AbortSignal.timeout(25_000) });
  clearTimeout(deadline);
  t.diagnostic(`told after ${Math.round(performance.now() - from)} ms`);
  lock.release();
  assert.ok(isLocked(folder), "the one who lost it does not take the other's lock away");
  other.release();
});

test("a holder that asks is told at once whether it still has the lock", async (t) => {
  const folder = join(scratch(t), "lock");
  const lock = await acquireLock(folder);
  assert.ok(lock.isHeld());
  assert.ok(!lock.lost.aborted);
  for (const file of readdirSync(folder)) rmSync(join(folder, file));
  assert.ok(!lock.isHeld());
  assert.ok(lock.lost.aborted);
  lock.release();
});

test("a file where a lock is to be is set aside, and folders in a lock are nobody's announcements", async (t) => {
  const parent = scratch(t);
  const folder = join(parent, "lock");
  writeFileSync(folder, "foreign");
  assert.ok(!isLocked(folder));
  const locks = await Promise.all(
    Array.from({ length: 4 }, async () => {
      const lock = await acquireLock(folder);
      lock.release();
    }),
  );
  assert.equal(locks.length, 4);
  const [aside = ""] = readdirSync(parent);
  assert.equal(readFileSync(join(parent, aside), "utf8"), "foreign");
  mkdirSync(join(folder, "foreign"), { recursive: true });
  assert.ok(!isLocked(folder));
  (await acquireLock(folder)).release();
});

test("a wait for a lock ends with the caller's own reason", async (t) => {
  const folder = join(scratch(t), "lock");
  const lock = await acquireLock(folder);
  const controller = new AbortController();
  const reason = new Error("enough");
  const waiting = acquireLock(folder, controller.signal);
  setTimeout(() => controller.abort(reason), 20);
  // It would wait for ever: what comes first is the abort, or the lock after all.
  const late = setTimeout(() => lock.release(), 10_000);
  await assert.rejects(waiting, reason);
  clearTimeout(late);
  lock.release();
});

test("a lock that is only tried is given or refused at once, and of many who try one gets it", async (t) => {
  const folder = join(scratch(t), "lock");
  for (let round = 0; round < 20; round++) {
    const tries = await Promise.all(Array.from({ length: 8 }, () => tryLock(folder)));
    const locks = tries.filter((lock) => lock !== null);
    assert.equal(locks.length, 1);
    assert.equal(await tryLock(folder), null);
    locks[0]?.release();
  }
  assert.ok(!existsSync(folder));
});

test("of many processes that find a lock whose holder was killed, one at a time has it", async (t) => {
  const parent = scratch(t);
  const dead = spawn(process.execPath, ["-e", ""]);
  const identity = processIdentity(dead.pid);
  await once(dead, "exit");
  const folders = Array.from({ length: 30 }, (_, index) => join(parent, `lock-${index}`));
  for (const folder of folders) {
    mkdirSync(folder);
    writeFileSync(join(folder, "0000000000000000"), JSON.stringify(identity));
    writeFileSync(join(folder, "0000000000000000.holds"), "");
  }
  const children = Array.from({ length: 4 }, () =>
    spawn(process.execPath, [CONTENDER, parent, "-", "try"], { stdio: ["pipe", "pipe", "inherit"] }),
  );
  await Promise.all(children.map((child) => once(child.stdout, "data"))); // loaded
  const answers = Promise.all(children.map((child) => once(child.stdout, "data") as Promise<[Buffer]>));
  for (const child of children) child.stdin.write("go\n");
  const winners = (await answers).flatMap(([answer]) => JSON.parse(answer.toString()) as string[]);
  for (const child of children) child.stdin.end();
  assert.deepEqual(winners.sort(), folders.sort(), "each lock was given exactly once");
});

test("trying makes nothing where the lock's place is gone", async (t) => {
  const folder = join(scratch(t), "gone", "lock");
  await assert.rejects(tryLock(folder), { code: "ENOENT" });
  assert.ok(!existsSync(join(folder, "..")));
});
