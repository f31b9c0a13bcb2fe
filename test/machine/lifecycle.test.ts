import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { HostError, OperationTimeoutError, VMNotFoundError, VMStateError } from "../../src/errors.js";
import { acquireLock } from "../../src/host/lock.js";
import { processIdentity } from "../../src/host/process.js";
import { SmolVM } from "../../src/machine/index.js";
import { claimFolder, loadState, machineFiles, machineFolder } from "../../src/machine/state.js";
import { eventually } from "./setting.js";
import { silentMachine } from "./silent-machine.js";
import { homeWithoutMachines, run, standIn, state } from "./stand-in.js";

const home = homeWithoutMachines();

test("a guest that never takes its variables keeps nobody from deleting the machine", async (t) => {
  const { vm, files } = await silentMachine(t);
  const changes = [vm.setEnvVars({ A: "1" }), vm.setEnvVars({ B: "2" })];
  await sleep(50);
  const from = performance.now();
  const outcomes = Promise.allSettled(changes);
  await vm.delete();
  t.diagnostic(`deleted after ${Math.round(performance.now() - from)} ms`);
  assert.ok(!existsSync(files.folder));
  // Had it waited for them, their time would have been up first, which is another error.
  for (const outcome of await outcomes) {
    assert.ok(outcome.status === "rejected" && outcome.reason instanceof VMStateError);
  }
  assert.deepEqual(await readdir(join(home, "machines")), []);
});

test("nor does it keep the caller waiting", async (t) => {
  const { vm } = await silentMachine(t);
  await assert.rejects(vm.setEnvVars({ A: "1" }), (error) => {
    assert.ok(error instanceof OperationTimeoutError);
    assert.equal(error.timeoutMs, 5000);
    assert.ok(error.hint);
    return true;
  });
  assert.deepEqual(await vm.listEnvVars(), {});
  await vm.delete();
});

test("the end of a machine is noted when no other program changes it", async (t) => {
  const { vm, files, die } = await silentMachine(t);
  const lock = await acquireLock(files.lock);
  await die();
  await eventually("the object knows", () => vm.status === "stopped");
  await sleep(100);
  assert.equal((await loadState("vm-test"))?.status, "running");
  lock.release();
  await eventually("the others know", async () => (await loadState("vm-test"))?.status === "stopped");
});

test("a start ends the QEMU that an earlier one left unrecorded, and says what file is missing", async (t) => {
  const qemu = await standIn();
  t.after(() => qemu.kill("SIGKILL"));
  const kernelPath = join(home, "gone");
  await claimFolder(state({ detached: true, owner: processIdentity(), status: "error", run: run(null), kernelPath }));
  const vm = await SmolVM.fromId("vm-test");
  await assert.rejects(vm.start(), (error) => {
    assert.ok(error instanceof HostError);
    assert.ok(error.message.includes(kernelPath) && error.hint, `${error.message} (${error.hint})`);
    assert.equal((error.cause as NodeJS.ErrnoException).code, "ENOENT");
    return true;
  });
  await eventually("the QEMU has ended", () => qemu.signalCode === "SIGKILL");
  await vm.delete();
});

test("a start that fails says why, even if what it made can't be removed", async () => {
  const file = join(home, "file");
  await writeFile(file, "");
  const vm = new SmolVM({ vmId: "vm-test", kernelPath: file, rootfsPath: file });
  const { folder, lock } = machineFiles(machineFolder("vm-test"));
  const held = await acquireLock(lock);
  const outcome = Promise.allSettled([vm.start()]);
  await eventually("it has a folder", () => existsSync(folder));
  // From here on there is neither a machine of that name nor a place to remove it to.
  process.env["SMOLVM_HOME"] = file;
  held.release();
  try {
    const [result] = await outcome;
    assert.ok(result.status === "rejected");
    assert.ok(result.reason instanceof VMNotFoundError, String(result.reason));
  } finally {
    process.env["SMOLVM_HOME"] = home;
  }
  await vm.delete();
  assert.deepEqual(await readdir(join(home, "machines")), []);
});
