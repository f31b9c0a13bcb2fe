import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { after, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

import { CommandExecutionUnavailableError } from "../../src/errors.js";
import { SmolVM } from "../../src/machine/index.js";
import { eventually, leftOvers, ownHome, processesIn, testImage } from "../machine/setting.js";

const home = ownHome();
await testImage();
const table: string[] = [];
after(() => home.close());

const LIBRARY = pathToFileURL(fileURLToPath(new URL("../../src/machine/index.js", import.meta.url))).href;

/** A program that makes a machine, says "up" and then does what `code` says. */
function owner(code: string): ChildProcess {
  const program = `
    const { SmolVM } = await import(${JSON.stringify(LIBRARY)});
    const vm = await SmolVM.create({ network: ${JSON.stringify(networkOfOwner)} });
    console.log("up");
    ${code}`;
  return spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "ignore"] });
}
let networkOfOwner = "restricted";

const FOREVER = "setInterval(() => {}, 1000);";

async function isUp(program: ChildProcess): Promise<void> {
  assert.ok(program.stdout);
  const ended = once(program, "exit").then(() => Promise.reject(new Error("it ended before its machine was up")));
  await Promise.race([once(program.stdout, "data"), ended]);
  ended.catch(() => undefined); // it is to end later
}

/** What is left at once, and what after the next call that looks. */
async function record(context: TestContext, cause: string, repetitions: number): Promise<void> {
  await eventually(`${cause}: no process is left`, () => processesIn(home.folder).length === 0);
  assert.deepEqual(await SmolVM.list(), []);
  const left = await leftOvers(home.folder);
  table.push(`${cause.padEnd(44)} | ${String(repetitions).padStart(4)} | ${left.length}`);
  context.diagnostic(table.at(-1) ?? "");
  assert.deepEqual(left, []);
}

test("a program that just ends leaves nothing, though it neither stops nor deletes its machine", async (context) => {
  const program = owner("");
  const [status] = (await once(program, "exit")) as [number];
  assert.equal(status, 0);
  // Before anybody sweeps. Its QEMU was killed as the last thing that it did, and takes a moment to be gone.
  await eventually("no process is left", () => processesIn(home.folder).length === 0);
  assert.deepEqual(await leftOvers(home.folder), []);
  await record(context, "the program ends by itself", 1);
});

test("nothing keeps a program waiting that has stopped, started and deleted its machine", async (context) => {
  const program = owner(`
    await vm.run("true", { timeoutMs: 60_000 });
    await vm.stop();
    await vm.start();
    await vm.delete();
    const deleted = performance.now();
    // A timer that was forgotten would keep it for seconds.
    await new Promise((resolve) => setImmediate(resolve));
    const waitsFor = process.getActiveResourcesInfo().filter((what) => what === "Timeout");
    process.on("exit", () => {
      process.exitCode = waitsFor.length > 0 ? 8 : performance.now() - deleted < 20_000 ? 0 : 7;
    });`);
  const [status] = (await once(program, "exit")) as [number];
  assert.equal(status, 0);
  await record(context, "the program deletes its machine", 1);
});

test("neither does one that throws", async (context) => {
  const program = owner(`throw new Error("unexpected");`);
  const [status] = (await once(program, "exit")) as [number];
  assert.equal(status, 1);
  await record(context, "the program throws", 1);
});

for (const signal of ["SIGTERM", "SIGINT", "SIGKILL"] as const) {
  test(`a program ended by ${signal} takes its machine with it`, async (context) => {
    const program = owner(FOREVER);
    await isUp(program);
    assert.equal(processesIn(home.folder).length, 1);
    program.kill(signal);
    await once(program, "exit");
    await record(context, `${signal} to the program`, 1);
  });
}

test("with open networking the egress filter goes too", async (context) => {
  networkOfOwner = "open";
  const program = owner(FOREVER);
  networkOfOwner = "restricted";
  await isUp(program);
  assert.equal(processesIn(home.folder).length, 2);
  program.kill("SIGKILL");
  await once(program, "exit");
  await record(context, "SIGKILL, network open", 1);
});

test("kill -9 at any instant of a machine's life leaves nothing that the next call does not clear away", async (context) => {
  const repetitions = 16;
  for (let turn = 0; turn < repetitions; turn++) {
    const program = owner(`await vm.run("true"); await vm.stop(); await vm.start(); ${FOREVER}`);
    // From the first moment of the program over its machine's boot and work to the second boot.
    await sleep((turn / repetitions) * 4000 + Math.random() * 250);
    program.kill("SIGKILL");
    await once(program, "exit");
    await SmolVM.list();
    await eventually("no process is left", () => processesIn(home.folder).length === 0);
    assert.deepEqual(await leftOvers(home.folder), [], `after turn ${turn}`);
  }
  await record(context, "SIGKILL at a random instant", repetitions);
});

test("a machine that another program deletes leaves nothing of what its own program held", async (context) => {
  const repetitions = 3;
  for (let turn = 0; turn < repetitions; turn++) {
    // One that sees it, one that ends at once, and one that is killed later.
    const [until, ending] = [
      ["vm.status !== 'running'", ""],
      ["vm.status !== 'running'", "process.exit();"],
      ["vm.info.createdAt === ''", FOREVER],
    ][turn] ?? ["", ""];
    const program = owner(
      `while (!(${until})) await new Promise((resolve) => setTimeout(resolve, 1)); console.log("seen"); ${ending}`,
    );
    await isUp(program);
    const [found] = await SmolVM.list();
    assert.ok(found);
    const [seen, exited] = [isUp(program), once(program, "exit")];
    await (await SmolVM.fromId(found.vmId)).delete();
    await seen;
    if (turn === 2) {
      assert.deepEqual(await leftOvers(home.folder), [], "while it lives");
      program.kill("SIGKILL");
    }
    await exited;
    await SmolVM.list();
    assert.deepEqual(await leftOvers(home.folder), [], `after turn ${turn}`);
  }
  await record(context, "deleted by another program", repetitions);
});

test("a guest that powers off is noticed at once and leaves nothing but its disk", async (context) => {
  const vm = await SmolVM.create();
  const pending = vm.run("sleep 1000");
  pending.catch(() => undefined);
  const off = performance.now();
  vm.spawn("poweroff -f");
  await assert.rejects(pending, CommandExecutionUnavailableError);
  context.diagnostic(`noticed after ${Math.round(performance.now() - off)} ms`);
  await eventually("the status tells", () => vm.status === "stopped");
  assert.equal(vm.info.reason, "the guest powered off");
  assert.deepEqual(processesIn(home.folder), []);
  await vm.start();
  assert.equal((await vm.run("echo again")).output, "again");
  await vm.delete();
  await record(context, "power-off in the guest", 1);
});

test("a guest whose memory is used up kills the culprit and goes on; one told to panic then ends", async (context) => {
  const vm = await SmolVM.create({ memSizeMib: 128 });
  const hog = await vm.run("tail /dev/zero");
  assert.deepEqual([hog.exitCode, hog.signal], [null, "SIGKILL"]);
  assert.equal((await vm.run("echo alive")).output, "alive");
  await vm.run("echo 2 > /proc/sys/vm/panic_on_oom");
  await assert.rejects(vm.run("tail /dev/zero"), /has ended: the guest's kernel panicked: Out of memory/);
  assert.equal(vm.status, "error");
  await vm.delete();
  await record(context, "out of memory in the guest", 1);
});

test("QEMU killed from outside is an error with its signal, and leaves nothing", async (context) => {
  const vm = await SmolVM.create();
  const { pid } = vm.info;
  assert.ok(pid !== null);
  const pending = vm.run("sleep 1000");
  process.kill(pid, "SIGKILL");
  await assert.rejects(pending, /has ended: QEMU ended with SIGKILL/);
  assert.equal(vm.status, "error");
  await vm.delete();
  await record(context, "SIGKILL to QEMU", 1);
});

test("the table", (context) => {
  for (const row of [`${"cause".padEnd(44)} | runs | left over`, ...table]) context.diagnostic(row);
});
