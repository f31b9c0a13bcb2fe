import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

import { VMAlreadyExistsError } from "../../src/errors.js";
import { acquireLock } from "../../src/host/lock.js";
import { processIdentity } from "../../src/host/process.js";
import { endWithProgram, sweep } from "../../src/machine/reaper.js";
import { removeMachine } from "../../src/machine/remove.js";
import { claimFolder, loadState, machineFolder, saveState } from "../../src/machine/state.js";
import { eventually } from "./setting.js";
import { goneIdentity, homeWithoutMachines, run, standIn, state, TOKEN } from "./stand-in.js";

const home = homeWithoutMachines();

test("a machine of a living owner is left alone", async () => {
  await claimFolder(state());
  assert.deepEqual(
    (await sweep()).map(({ vmId }) => vmId),
    ["vm-test"],
  );
});

test("a dead owner's machine goes, with its QEMU, whether its pid was noted or not", async () => {
  const owner = await goneIdentity();
  for (const noted of [true, false]) {
    const qemu = await standIn();
    const ended = once(qemu, "exit");
    await claimFolder(state({ owner, run: run(noted ? qemu.identity : null) }));
    assert.deepEqual(await sweep(), []);
    const [, signal] = (await ended) as [number | null, string];
    assert.equal(signal, "SIGKILL", noted ? "by its pid" : "by its token");
    assert.deepEqual(await readdir(join(home, "machines")), []);
  }
});

test("a pid that another process has now is not touched", async () => {
  const other = await standIn();
  const owner = await goneIdentity();
  await claimFolder(state({ owner, run: run({ ...other.identity, started: "1" }) }));
  await sweep();
  assert.equal(other.exitCode ?? other.signalCode, null);
  other.kill("SIGKILL");
  await once(other, "exit");
});

test("a detached machine stays, and is stopped from the moment its QEMU has ended", async () => {
  const qemu = await standIn();
  const files = await claimFolder(state({ detached: true, owner: null, run: run(qemu.identity) }));
  assert.equal((await sweep())[0]?.status, "running");
  qemu.kill("SIGKILL");
  await once(qemu, "exit");
  await writeFile(files.console, "Kernel panic - not syncing: hard luck\n");
  const [found] = await sweep();
  assert.deepEqual(
    [found?.status, found?.reason, found?.run],
    ["error", "the guest's kernel panicked: hard luck", null],
  );
  assert.equal((await loadState("vm-test"))?.status, "error");
});

test("a start or a stop that was cut short with its program is finished by the next one that looks", async () => {
  const claimant = await goneIdentity();
  for (const [status, becomes, reason] of [
    ["starting", "error", "the program that started it ended before it was up"],
    ["stopped", "stopped", null],
  ] as const) {
    const qemu = await standIn();
    const ended = once(qemu, "exit");
    const files = await claimFolder(
      state({ vmId: status, detached: true, owner: null, status, run: run(qemu.identity) }),
    );
    await mkdir(files.lock);
    const holder = join(files.lock, "holder");
    await writeFile(`${holder}.holds`, "");
    await writeFile(holder, JSON.stringify(processIdentity()));
    assert.equal((await sweep()).find(({ vmId }) => vmId === status)?.run?.token, TOKEN, "somebody is at it");
    await new Promise((resolve) => setTimeout(resolve, 300)); // whether a holder lives is looked at so often
    await writeFile(holder, JSON.stringify(claimant));
    const found = (await sweep()).find(({ vmId }) => vmId === status);
    assert.deepEqual([found?.status, found?.reason, found?.run], [becomes, reason, null]);
    await ended;
  }
});

test("what a crash left of making or removing a machine goes; what a living process makes stays", async () => {
  const machines = join(home, "machines");
  await mkdir(join(machines, ".trash-1"), { recursive: true });
  await writeFile(join(machines, ".trash-1", "disk.qcow2"), "x");
  // As a process that is gone would have named it, before there was anything in it.
  const own = await ownStagingName();
  const [where = ""] = own.split(".");
  const dead = await goneIdentity();
  const abandoned = `.new-${where}.${dead.pid}.${Buffer.from(dead.started).toString("hex")}.00`;
  const elsewhere = ".new-0123456789ab.1.31.00";
  const old = ".new-0123456789ab.1.31.01";
  for (const name of [`.new-${own}`, abandoned, elsewhere, old]) await mkdir(join(machines, name));
  await utimes(join(machines, old), 1, 1);
  await sweep();
  assert.deepEqual((await readdir(machines)).sort(), [elsewhere, `.new-${own}`].sort());
});

/** What this process puts behind ".new-". */
async function ownStagingName(): Promise<string> {
  const { makerTag } = await import("../../src/machine/state.js");
  return `${makerTag()}.00`;
}

test("of many that want one name exactly one gets it, and a state is never half there", async () => {
  const claims = await Promise.allSettled(Array.from({ length: 20 }, () => claimFolder(state())));
  assert.equal(claims.filter(({ status }) => status === "fulfilled").length, 1);
  for (const claim of claims) {
    if (claim.status === "rejected") assert.ok(claim.reason instanceof VMAlreadyExistsError);
  }
  assert.deepEqual(await readdir(join(home, "machines")), ["vm-test"]);
  const files = { ...(await import("../../src/machine/state.js")).machineFiles(machineFolder("vm-test")) };
  const writing = Promise.all(
    Array.from({ length: 100 }, (_, index) => saveState(files, state({ reason: "x".repeat(index * 100) }))),
  );
  for (let index = 0; index < 100; index++) assert.ok(await loadState("vm-test"));
  await writing;
  assert.deepEqual((await readdir(files.folder)).sort(), ["lanes", "machine.json"]);
});

test("a state that can't be read is no machine, and its folder is left for a person", async () => {
  const files = await claimFolder(state());
  await writeFile(files.state, '{"version": 1, "vmId');
  assert.deepEqual(await sweep(), []);
  assert.equal(await loadState("vm-test"), null);
  assert.ok(existsSync(files.folder));
});

test("a machine that takes the name of an abandoned one while that is being looked at is left alone", async () => {
  const owner = await goneIdentity();
  const files = await claimFolder(state({ owner }));
  const lock = await acquireLock(files.lock); // another program that sweeps as well, and is first
  const sweeping = sweep();
  // It has seen the abandoned one when it waits at the lock, where it stands beside the holder.
  const waiting = async (): Promise<boolean> =>
    (await readdir(files.lock)).filter((name) => !name.endsWith(".holds")).length === 2;
  await eventually("the sweep waits", waiting);
  await rm(files.folder, { recursive: true });
  await claimFolder(state({ createdAt: new Date(1).toISOString() }));
  lock.release();
  assert.deepEqual(
    (await sweeping).map(({ createdAt }) => createdAt),
    [new Date(1).toISOString()],
  );
  assert.ok(existsSync(files.folder));
  await removeMachine(files, state(), null, 1000);
  assert.ok(existsSync(files.folder), "nor does it go with an object that knows the old one");
  await removeMachine(files, state({ createdAt: new Date(1).toISOString() }), null, 1000);
  assert.deepEqual(await readdir(join(home, "machines")), []);
});

test("what stands where a lock should be is cleared away, and so is a lock of the dead", async () => {
  await claimFolder(state());
  await writeFile(join(home, "machines", ".lock-odd"), "no folder, and so no lock");
  const owner = await goneIdentity();
  await claimFolder(state({ vmId: "left", owner }));
  const dead = join(home, "machines", ".lock-left");
  await mkdir(dead);
  await writeFile(join(dead, "0000000000000000"), JSON.stringify(owner));
  assert.deepEqual(
    (await sweep()).map(({ vmId }) => vmId),
    ["vm-test"],
  );
  assert.deepEqual(await readdir(join(home, "machines")), ["vm-test"]);
});

test("a machine whose owner can't be looked at lives as long as its heartbeat", async () => {
  const own = processIdentity();
  assert.ok(own);
  const owner = { ...own, scope: { ...own.scope, namespace: "another container" } };
  const made = ["young", "silent", "slept"].map(async (vmId) => claimFolder(state({ vmId, owner })));
  const [, silent, slept] = await Promise.all(made);
  assert.ok(silent && slept);
  const eleven = new Date(Date.now() - 11 * 60 * 1000);
  for (const files of [silent, slept]) await utimes(files.state, eleven, eleven);
  const swept = async (): Promise<readonly string[]> => (await sweep()).map(({ vmId }) => vmId).sort();
  const all = ["silent", "slept", "young"];
  assert.deepEqual(await swept(), all, "its host may have slept, and be about to give a sign");
  assert.deepEqual(await swept(), all, "nor is it judged at the next look");
  // A while later; one has given its sign by then, as its owner does for as long as it lives.
  const later = new Date(Date.now() - 60_000);
  for (const files of [silent, slept]) await utimes(files.silent, later, later);
  const createdAt = state().createdAt;
  const owned = { folder: slept.folder, createdAt, kill: () => undefined, release: () => undefined };
  const beating = endWithProgram(owned);
  await eventually("its heartbeat", async () => Date.now() - (await stat(slept.state)).mtimeMs < 60_000, 30_000);
  beating[Symbol.dispose]();
  assert.deepEqual(await swept(), ["slept", "young"]);
  assert.ok(!existsSync(silent.folder));
  // And when that one falls silent again, the old mark does not count.
  await utimes(slept.state, eleven, eleven);
  const before = new Date(eleven.getTime() - 1000);
  await utimes(slept.silent, before, before);
  assert.deepEqual(await swept(), ["slept", "young"]);
});

test("the console of a machine that nobody is connected to is cut by whoever sweeps", async () => {
  const qemu = await standIn();
  const files = await claimFolder(state({ detached: true, owner: null, run: run(qemu.identity) }));
  await writeFile(files.console, Buffer.alloc(2 * 1024 * 1024, "x"));
  assert.equal((await sweep()).length, 1);
  assert.equal((await stat(files.console)).size, 0);
  qemu.kill("SIGKILL");
  await once(qemu, "exit");
});

test("a program's lease is given back at its end, though another program has deleted its machine", async () => {
  const lease = join(home, "lease");
  const files = await claimFolder(state());
  await writeFile(lease, "");
  const reaper = fileURLToPath(new URL("../../src/machine/reaper.js", import.meta.url));
  const program = `
    import { rmSync } from "node:fs";
    import { endWithProgram } from ${JSON.stringify(pathToFileURL(reaper).href)};
    const release = () => rmSync(${JSON.stringify(lease)});
    endWithProgram({ folder: ${JSON.stringify(files.folder)}, createdAt: "", kill: () => undefined, release });
    rmSync(${JSON.stringify(files.folder)}, { recursive: true });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: "inherit" });
  assert.deepEqual(await once(child, "exit"), [0, null]);
  assert.ok(!existsSync(lease));
});
