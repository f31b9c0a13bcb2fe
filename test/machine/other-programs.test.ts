// What an object makes of it that another program changes its machine.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { HostError, VMNotFoundError, VMStateError } from "../../src/errors.js";
import { SmolVM } from "../../src/machine/index.js";
import { claimMachineLock } from "../../src/machine/claim.js";
import { claimFolder, loadState, saveState } from "../../src/machine/state.js";
import { eventually } from "./setting.js";
import { silentMachine, silentQemu } from "./silent-machine.js";
import { homeWithoutMachines, state } from "./stand-in.js";

homeWithoutMachines();
const PATIENCE_MS = 30_000;

test("a QEMU that takes its time to end after it has hung up is waited for", async (t) => {
  const { vm, hangUp, die } = await silentMachine(t);
  hangUp();
  await assert.rejects(vm.run("true"), /can't be reached|connection/);
  await sleep(1000);
  assert.equal(vm.status, "running");
  await die();
  await eventually("the object knows", () => vm.status === "stopped", PATIENCE_MS);
  await eventually("the others know", async () => (await loadState("vm-test"))?.status === "stopped", PATIENCE_MS);
});

test("an end that another program has noted is taken from there", async (t) => {
  const { vm, files, hangUp, die } = await silentMachine(t);
  const before = await loadState("vm-test");
  assert.ok(before);
  hangUp();
  await saveState(files, { ...before, status: "error", reason: "as the other one saw it", run: null });
  await die();
  await eventually("the object knows", () => vm.status === "error", PATIENCE_MS);
  assert.equal(vm.info.reason, "as the other one saw it");
  await assert.rejects(vm.run("true"), /has ended: as the other one saw it/);
});

test("a machine of which nothing can be read for a while is not taken for deleted", async (t) => {
  const { vm, files } = await silentMachine(t);
  const whole = await readFile(files.state);
  for (const trouble of [() => writeFile(files.state, whole.subarray(0, 20)), () => mkdir(files.state)]) {
    await rm(files.state, { recursive: true });
    await trouble();
    for (const call of [() => vm.stop(), () => vm.refresh()]) await assert.rejects(call(), HostError);
    assert.equal(vm.status, "running");
  }
  await rm(files.state, { recursive: true });
  await writeFile(files.state, whole);
  await vm.refresh();
  assert.equal(vm.status, "running");
  await vm.stop();
  assert.equal((await loadState("vm-test"))?.status, "stopped");
});

test("a machine that another program has started can be used by who tried to start it too", async (t) => {
  const files = await claimFolder(state({ detached: true, owner: null, status: "stopped" }));
  const vm = await SmolVM.fromId("vm-test");
  const qemu = await silentQemu(t);
  await qemu.serve(files);
  await saveState(files, state({ detached: true, owner: null, run: qemu.run }));
  await assert.rejects(vm.start(), (error) => error instanceof VMStateError && /runs already/.test(error.message));
  assert.equal(vm.status, "running");
  assert.equal(vm.info.kernel, "kernel", "its guest has greeted");
  // The next machine has the same name and birth: nothing may be on its way to this one any more.
  await qemu.die();
  await eventually("its end is noted", async () => (await loadState("vm-test"))?.status === "stopped", PATIENCE_MS);
});

test("an object is of one machine: another one of the same name is not touched, and nothing of it is told", async (t) => {
  const { vm, files } = await silentMachine(t);
  const stopped = { detached: true, owner: null, status: "stopped" } as const;
  await saveState(files, state(stopped));
  const started = await SmolVM.fromId("vm-test");
  await rm(files.folder, { recursive: true });
  const newer = new Date(1).toISOString();
  const { run } = await silentQemu(t);
  await claimFolder(state({ detached: true, owner: null, createdAt: newer, env: { SECRET: "x" }, run }));
  assert.deepEqual(await vm.listEnvVars(), {});
  await assert.rejects(vm.setEnvVars({ A: "1" }), VMNotFoundError);
  await assert.rejects(started.start(), VMNotFoundError);
  await vm.refresh();
  assert.deepEqual([vm.status, vm.info.createdAt], ["stopped", ""]);
  await assert.rejects(vm.start(), /was deleted/);
  for (const object of [vm, started]) {
    await object.stop();
    await object.delete();
  }
  assert.ok(existsSync(files.folder));
  assert.equal((await loadState("vm-test"))?.createdAt, newer);
});

test("a machine whose end is that another program is deleting it counts as deleted", async (t) => {
  const { vm, files, die } = await silentMachine(t);
  const lock = await claimMachineLock(files.lock, 5000);
  const before = (await readdir(files.lock)).length;
  await die();
  await eventually("who notes the end waits for its turn", async () => (await readdir(files.lock)).length > before);
  await rm(files.folder, { recursive: true });
  lock.release();
  await eventually("the object knows", () => vm.info.createdAt === "", PATIENCE_MS);
  await assert.rejects(vm.start(), /was deleted/);
});

test("the end of a machine whose name another one has by now is not noted there", async (t) => {
  const { vm, files, die } = await silentMachine(t);
  await rm(files.state);
  const other = await silentQemu(t);
  await saveState(files, state({ detached: true, owner: null, createdAt: new Date(1).toISOString(), run: other.run }));
  await die();
  await eventually("the object knows", () => vm.status === "stopped", PATIENCE_MS);
  await vm.delete();
  assert.equal((await loadState("vm-test"))?.status, "running");
});
