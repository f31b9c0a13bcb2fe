import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { HostError, OperationTimeoutError, VMNotFoundError, VMStateError } from "../../src/errors.js";
import { acquireLock } from "../../src/host/lock.js";
import { processIdentity } from "../../src/host/process.js";
import { laneSocket } from "../../src/hypervisor/index.js";
import { SmolVM } from "../../src/machine/index.js";
import { claimFolder, loadState, machineFiles, machineFolder, type MachineFiles } from "../../src/machine/state.js";
import { ForgedGuest } from "../guest/forged.js";
import { eventually } from "./setting.js";
import { homeWithoutMachines, run, standIn, state } from "./stand-in.js";

const home = homeWithoutMachines();

interface Silent {
  readonly vm: SmolVM;
  readonly files: MachineFiles;
  /** Ends what stands for QEMU, and with it the lane. */
  readonly die: () => Promise<void>;
}

/** A running machine, made by another program, whose guest greets and then never answers anything. */
async function silentMachine(t: TestContext): Promise<Silent> {
  const qemu = await standIn();
  const files = await claimFolder(state({ detached: true, owner: null, run: run(qemu.identity) }));
  const sockets = new Set<Socket>();
  const server = await laneServer(files, sockets);
  const ended = once(qemu, "exit");
  const die = async (): Promise<void> => {
    qemu.kill("SIGKILL");
    await ended;
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  t.after(die);
  return { vm: await SmolVM.fromId("vm-test"), files, die };
}

async function laneServer(files: MachineFiles, sockets: Set<Socket>): Promise<Server> {
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined); // the machine goes away in the middle of it
    const guest = new ForgedGuest();
    socket.pipe(guest).pipe(socket);
  });
  await mkdir(files.sockets);
  server.listen(join(files.sockets, laneSocket(1)));
  await once(server, "listening");
  return server;
}

test("a guest that never takes its variables keeps nobody from deleting the machine", async (t) => {
  const { vm, files } = await silentMachine(t);
  const changes = [vm.setEnvVars({ A: "1" }), vm.setEnvVars({ B: "2" })];
  await sleep(50);
  const from = performance.now();
  const outcomes = Promise.allSettled(changes);
  await vm.delete();
  assert.ok(performance.now() - from < 2500, `deleted after ${performance.now() - from} ms`);
  assert.ok(!existsSync(files.folder));
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
