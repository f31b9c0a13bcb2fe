import assert from "node:assert/strict";
import { once } from "node:events";
import { appendFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { appendFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { beginConsole, consoleTail, followConsole, readConsole, rotateConsole } from "../../src/machine/console-log.js";
import { explainDeath } from "../../src/machine/death.js";
import { machineFiles } from "../../src/machine/state.js";
import { printable } from "../../src/printable.js";
import { eventually } from "./setting.js";

let folder: string;
let path: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-console-"));
  path = machineFiles(folder).console;
});
after(() => rm(folder, { recursive: true, force: true }));

test("a console that is not there is empty", () => {
  assert.equal(readConsole(join(folder, "none")), "");
  assert.deepEqual(consoleTail(join(folder, "none"), 5), []);
});

test("the tail is the last lines that say something, without what a terminal would act on", async () => {
  await writeFile(path, "one\r\n\n\x1b[31mtwo\x1b[0m\x07\r\n   \nthree \x1b]0;title\x07\n");
  assert.deepEqual(consoleTail(path, 2), ["two", "three ]0;title"]);
  assert.equal(printable("a\x1b[2J\x1b[1;1Hb\x9bc\tx"), "abc\tx");
  assert.equal(printable("a\u202egpj.exe\u2066b\u2028c"), "agpj.exebc");
});

test("it is cut when it grows, keeps its last megabyte, and who follows it misses nothing but the cut", async () => {
  await writeFile(path, "begin\n");
  let ended = false;
  const stream = followConsole(path, () => ended);
  let seen = "";
  stream.on("data", (chunk: Buffer) => (seen += chunk.toString()));
  await eventually("the beginning", () => seen === "begin\n");
  const line = `${"x".repeat(99)}\n`;
  await appendFile(path, line.repeat(11_000));
  await eventually("all of it", () => seen.length === 6 + 1_100_000);
  await rotateConsole(path);
  assert.equal((await stat(path)).size, 0);
  await appendFile(path, "after\n");
  await eventually("what came after", () => seen.endsWith("after\n"));
  assert.equal(readConsole(path).length, 1024 * 1024);
  assert.ok(readConsole(path).endsWith("x\nafter\n"));
  await rotateConsole(path);
  assert.equal((await stat(path)).size, 6, "short enough");
  const done = new Promise((resolve) => stream.once("end", resolve));
  ended = true;
  await done;
  await rotateConsole(join(folder, "deleted"));
});

test("many programs that cut it at once keep the same megabyte, and leave nothing else", async () => {
  const own = await mkdtemp(join(folder, "shared-"));
  const shared = join(own, "console.log");
  for (let round = 0; round < 20; round++) {
    const content = Buffer.alloc(1024 * 1024, String(round % 10));
    await writeFile(shared, Buffer.concat([Buffer.from("x"), content]));
    await Promise.all(Array.from({ length: 8 }, () => rotateConsole(shared)));
    assert.ok((await readFile(`${shared}.1`)).equals(content), `round ${round}`);
    assert.equal((await stat(shared)).size, 0);
    assert.deepEqual((await readdir(own)).sort(), ["console.log", "console.log.1"]);
  }
});

test("each run begins with an empty console, the last one's is kept, and how it ended is told from its own lines", async () => {
  const files = machineFiles(await mkdtemp(join(folder, "runs-")));
  await beginConsole(files.console);
  await writeFile(files.console, "Kernel panic - not syncing: the first run\n");
  assert.equal(explainDeath(files, null).reason, "the guest's kernel panicked: the first run");
  await beginConsole(files.console);
  await appendFile(files.console, "the second run\n");
  assert.deepEqual(explainDeath(files, null), { status: "stopped", reason: "the guest powered off" });
  assert.equal(readConsole(files.console), "Kernel panic - not syncing: the first run\nthe second run\n");
  await writeFile(files.console, "");
  await beginConsole(files.console);
  assert.match(readConsole(files.console), /the first run/, "a run that printed nothing displaces none");
});

test("what is printed while somebody begins to follow is not missed", async () => {
  rmSync(`${path}.1`, { force: true });
  for (let round = 0; round < 20; round++) {
    writeFileSync(path, "begin\n");
    let ended = false;
    const stream = followConsole(path, () => ended);
    const seen: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => seen.push(chunk));
    for (let line = 0; line < 200; line++) {
      appendFileSync(path, `${line}\n`);
      await new Promise((resolve) => (line % 2 === 0 ? process.nextTick(resolve) : setImmediate(resolve)));
    }
    ended = true;
    await once(stream, "end");
    assert.equal(Buffer.concat(seen).toString(), readFileSync(path, "utf8"));
  }
});

test("a signal ends following", async () => {
  const controller = new AbortController();
  const stream = followConsole(path, () => false, controller.signal);
  setTimeout(() => controller.abort(), 20);
  stream.resume();
  await assert.rejects(once(stream, "end"), /abort/i);
});

test("what ended a machine is told from what it left", async () => {
  const files = machineFiles(folder);
  await writeFile(
    files.console,
    "[ 1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\n[ 1.1] CPU: 0\n",
  );
  assert.deepEqual(explainDeath(files, { status: 0, signal: null }), {
    status: "error",
    reason: "the guest's kernel panicked: Attempted to kill init! exitcode=0x0",
  });
  await writeFile(files.console, "bye\n");
  assert.deepEqual(explainDeath(files, { status: 0, signal: null }), {
    status: "stopped",
    reason: "the guest powered off",
  });
  assert.equal(explainDeath(files, null).status, "stopped");
  assert.equal(explainDeath(files, { status: null, signal: "SIGKILL" }).reason, "QEMU ended with SIGKILL");
  await writeFile(files.log, "qemu: first\nqemu: out of file descriptors\n");
  assert.equal(
    explainDeath(files, { status: 1, signal: null }).reason,
    "QEMU ended with exit status 1: qemu: out of file descriptors",
  );
});
