/**
 * How fast bytes go between a machine and this program, that each of 1 GiB arrives, and that a slow reader bounds the memory of
 * both sides.
 *
 *   node build/bench/streams.js [rounds]
 */
import { createHash } from "node:crypto";
import { readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { SmolVM } from "../src/index.js";
import { ownHome } from "../test/machine/setting.js";
import { MIB, writeDense } from "./image-files.js";
import { median, printFindings, roundsOr, takeTurns, temporaryFolder } from "./measure.js";

const OUTPUT = 1024 * MIB;
const UPLOAD = 256 * MIB;
const rounds = roundsOr(5);
using folder = temporaryFolder();
const file = join(folder.path, "file");
writeDense(file, UPLOAD);
const bytes = Buffer.alloc(UPLOAD, "smolvm counts its bytes. ");
const home = ownHome();
try {
  await using vm = await SmolVM.create({ memSizeMib: 1024 });
  await vm.run("mkdir -p /tmp/ram && mount -t tmpfs -o size=700m none /tmp/ram");
  const results = await takeTurns(
    [
      { name: "output", run: () => rate(OUTPUT, () => printZeros(vm)) },
      { name: "writeFile", run: () => upload(vm, "/tmp/ram/a", (to) => vm.files.writeFile(to, bytes)) },
      { name: "upload", run: () => upload(vm, "/tmp/ram/b", (to) => vm.files.upload(file, to)) },
      { name: "disk", run: () => upload(vm, "/var/c", (to) => vm.files.writeFile(to, bytes)) },
      { name: "download", run: () => download(vm) },
    ],
    rounds,
  );
  const middle = (name: string): number => median(results.get(name) ?? []);
  const { wrong, hostMib } = await exact(vm);
  const slow = await readSlowly(vm);
  printFindings(`Streams, ${rounds} rounds of 1 GiB out and 256 MiB in`, [
    { what: "output of a command to a Node stream", measured: middle("output"), unit: " MB/s", least: 150 },
    { what: "files.writeFile, to a tmpfs", measured: middle("writeFile"), unit: " MB/s", least: 60 },
    { what: "files.upload, to a tmpfs", measured: middle("upload"), unit: " MB/s", least: 60 },
    { what: "files.writeFile, to the machine's disk", measured: middle("disk"), unit: " MB/s" },
    { what: "files.download, from a tmpfs", measured: middle("download"), unit: " MB/s" },
    { what: "bytes wrong or missing in 1 GiB of random output", measured: wrong, unit: "", most: 0 },
    { what: "this program grows by, while it takes them", measured: hostMib, unit: " MiB" },
    { what: "this program grows by, while it reads endless output slowly", measured: slow.hostMib, unit: " MiB" },
    { what: "the guest's agent grows by meanwhile", measured: slow.agentMib, unit: " MiB" },
  ]);
} finally {
  await home.close();
}

/** MB/s of work on so many bytes. */
async function rate(size: number, act: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await act();
  return size / 1e6 / ((performance.now() - began) / 1000);
}

async function printZeros(vm: SmolVM): Promise<void> {
  const command = vm.spawn(["dd", "if=/dev/zero", "bs=256k", `count=${(OUTPUT / MIB) * 4}`], { stdin: false });
  command.stderr.resume();
  let count = 0;
  command.stdout.on("data", (chunk: Buffer) => (count += chunk.length));
  await command.wait();
  if (!command.stdout.readableEnded) await new Promise((resolve) => command.stdout.once("end", resolve));
  if (count !== OUTPUT) throw new Error(`${count} bytes came`);
}

async function upload(vm: SmolVM, to: string, act: (to: string) => Promise<void>): Promise<number> {
  const result = await rate(UPLOAD, () => act(to));
  if ((await vm.files.stat(to)).size !== UPLOAD) throw new Error("the upload is not whole");
  await vm.files.rm(to);
  return result;
}

async function download(vm: SmolVM): Promise<number> {
  const to = join(folder.path, "download");
  await vm.run(`dd if=/dev/zero of=/tmp/ram/d bs=1M count=${UPLOAD / MIB}`);
  const result = await rate(UPLOAD, () => vm.files.download("/tmp/ram/d", to));
  if (statSync(to).size !== UPLOAD) throw new Error("the download is not whole");
  rmSync(to);
  await vm.files.rm("/tmp/ram/d");
  return result;
}

/** Four times 256 MiB of random bytes out of the machine, held against the same bytes here. */
async function exact(vm: SmolVM): Promise<{ readonly wrong: number; readonly hostMib: number }> {
  await vm.files.upload(file, "/tmp/ram/e");
  const expected = createHash("sha256");
  const original = readFileSync(file);
  for (let part = 0; part < 4; part++) expected.update(original);
  using memory = watchMemory();
  const command = vm.spawn("cat /tmp/ram/e /tmp/ram/e /tmp/ram/e /tmp/ram/e", { stdin: false });
  const actual = createHash("sha256");
  let count = 0;
  for await (const chunk of command.stdout) {
    actual.update(chunk as Buffer);
    count += (chunk as Buffer).length;
  }
  await command.wait();
  await vm.files.rm("/tmp/ram/e");
  const same = actual.digest("hex") === expected.digest("hex");
  const wrong = same ? 0 : Math.max(1, Math.abs(OUTPUT - count));
  return { wrong, hostMib: memory.growth() };
}

/** Reads a little of endless output now and then, for some seconds. */
async function readSlowly(vm: SmolVM): Promise<{ readonly hostMib: number; readonly agentMib: number }> {
  const before = await agentMib(vm);
  using memory = watchMemory();
  const command = vm.spawn(["yes", "smolvm counts its bytes"], { stdin: false });
  for (let reads = 0; reads < 60; reads++) {
    command.stdout.read(16 * 1024);
    await sleep(50);
  }
  const after = await agentMib(vm);
  command.stdout.destroy();
  command.kill("SIGKILL");
  await command.wait();
  return { hostMib: memory.growth(), agentMib: after - before };
}

async function agentMib(vm: SmolVM): Promise<number> {
  const { stdout } = await vm.run(["cat", "/proc/1/status"]);
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(stdout)?.[1]) / 1024;
}

/** How far this process's resident memory rises above what it was. */
function watchMemory(): Disposable & { growth(): number } {
  const start = process.memoryUsage().rss;
  let largest = start;
  const watch = setInterval(() => (largest = Math.max(largest, process.memoryUsage().rss)), 10);
  return {
    growth: () => (largest - start) / MIB,
    [Symbol.dispose]: () => clearInterval(watch),
  };
}
