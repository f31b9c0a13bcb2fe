import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";

import { VMAlreadyExistsError } from "../../src/errors.js";
import { processIdentity, type ProcessIdentity } from "../../src/host/process.js";
import { sweep } from "../../src/machine/reaper.js";
import { claimFolder, loadState, machineFolder, saveState, type MachineState } from "../../src/machine/state.js";

let home: string;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "smolvm-sweep-"));
  process.env["SMOLVM_HOME"] = home;
});
beforeEach(() => rm(join(home, "machines"), { recursive: true, force: true }));
after(() => rm(home, { recursive: true, force: true }));

const TOKEN = "5b0d3c2e-0000-4000-8000-00000000abcd";

function state(changes: Partial<MachineState> = {}): MachineState {
  return {
    version: 1,
    vmId: "vm-test",
    createdAt: new Date(0).toISOString(),
    detached: false,
    owner: processIdentity(),
    status: "running",
    reason: null,
    image: null,
    cacheDir: join(home, "images"),
    kernelPath: "/k",
    rootfsPath: "/r",
    initrdPath: null,
    bootArgs: null,
    vcpuCount: null,
    memSizeMib: 512,
    diskMode: "isolated",
    diskSizeMib: null,
    extraDrives: [],
    network: "restricted",
    accel: "auto",
    env: {},
    ports: [],
    run: null,
    ...changes,
  };
}

/** Stands for QEMU: a process with the run's token among its arguments. */
async function standIn(): Promise<ChildProcess & { readonly identity: ProcessIdentity }> {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)", "--", "-uuid", TOKEN], {
    stdio: "ignore",
  });
  await once(child, "spawn");
  const identity = processIdentity(child.pid);
  assert.ok(identity);
  return Object.assign(child, { identity });
}

async function goneIdentity(): Promise<ProcessIdentity> {
  const child = await standIn();
  child.kill("SIGKILL");
  await once(child, "exit");
  return child.identity;
}

const run = (qemu: ProcessIdentity | null): MachineState["run"] => ({
  token: TOKEN,
  startedAt: new Date(0).toISOString(),
  qemu,
  accelerator: "tcg",
  acceleratorReason: "",
  vcpus: 1,
});

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
