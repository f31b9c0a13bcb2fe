import assert from "node:assert/strict";
import { once } from "node:events";
import { appendFile, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";

import { machineHome } from "../cli/machines.js";
import { envelopeOf, firstOutput, onTerminal, smolvm, startSmolvm } from "../cli/smolvm.js";
import { eventually } from "../machine/setting.js";

test("a machine that was created lives through exec, stop, start and cp, until rm", async (context) => {
  const { env, folder, machines } = await machineHome(context);
  const run = async (...args: string[]): Promise<string> => {
    const { status, stdout, stderr } = await smolvm(args, { env });
    assert.equal(status, 0, `${args.join(" ")}: ${stderr}`);
    return stdout.toString();
  };

  assert.equal(await run("create", "--name", "box", "-e", "COLOUR=red", "--memory", "256"), "box\n");
  assert.equal(await run("ls", "-q"), "box\n");
  assert.match(await run("ls"), /^box +running +\S+ +\d+ +256 MiB/m);
  assert.equal(await run("exec", "box", "--", "sh", "-c", "echo $COLOUR > /note; cat /note"), "red\n");
  assert.equal(await run("exec", "box", "-e", "COLOUR=blue", "echo $COLOUR"), "blue\n");
  assert.match(await run("logs", "box"), /\S/);
  const info = JSON.parse(await run("inspect", "box")) as { vmId: string; status: string };
  assert.deepEqual([info.vmId, info.status], ["box", "running"]);

  await mkdir(join(folder, "tree"));
  await writeFile(join(folder, "tree", "script"), "#!/bin/sh\necho I ran\n", { mode: 0o750 });
  await run("cp", join(folder, "tree"), "box:/tree");
  assert.equal(await run("exec", "box", "--", "/tree/script"), "I ran\n");
  await run("cp", "box:/tree", join(folder, "back"));
  assert.equal(await readFile(join(folder, "back", "script"), "utf8"), "#!/bin/sh\necho I ran\n");
  assert.equal((await stat(join(folder, "back", "script"))).mode & 0o777, 0o750);

  const refused = await smolvm(["rm", "box"], { env });
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /Machine 'box' is running\.\nhint: Stop it first: smolvm stop box/);

  assert.equal(await run("stop", "box"), "box\n");
  assert.match(await run("ls"), /^box +stopped/m);
  const dead = await smolvm(["exec", "box", "--", "true"], { env });
  assert.equal(dead.status, 125);
  assert.equal(await run("start", "box"), "box\n");
  assert.equal(await run("exec", "box", "--", "cat", "/note"), "red\n");
  assert.equal(await run("rm", "--force", "box"), "box\n");
  assert.deepEqual(await machines(), []);
});

test("start, stop and rm do what they can of several machines, and say of each how it went", async (context) => {
  const { env, machines } = await machineHome(context);
  for (const name of ["one", "two"]) assert.equal((await smolvm(["create", "--name", name], { env })).status, 0);

  const stopped = await smolvm(["stop", "ghost", "one"], { env });
  assert.equal(stopped.status, 1);
  assert.equal(stopped.stdout.toString(), "one\n");
  assert.equal(stopped.stderr, "smolvm: No machine with id 'ghost'.\nhint: List the machines with: smolvm ls\n");

  // "one" is stopped and goes; "two" runs and stays.
  const removed = await smolvm(["rm", "one", "two", "ghost", "--json"], { env });
  assert.equal(removed.status, 1);
  assert.deepEqual(await machines(), ["two"]);
  const { data, error, ok } = envelopeOf(removed);
  assert.deepEqual([ok, error?.code, error?.details["vmId"]], [false, "VM_STATE", "two"]);
  const results = data as { vmId: string; ok: boolean; error: { code: string; hint: string } | null }[];
  assert.deepEqual(
    results.map((result) => [result.vmId, result.ok, result.error?.code]),
    [
      ["one", true, undefined],
      ["two", false, "VM_STATE"],
      ["ghost", false, "VM_NOT_FOUND"],
    ],
  );
  assert.match(removed.stderr, /Machine 'two' is running.*\n.*\nsmolvm: No machine with id 'ghost'/);

  assert.equal((await smolvm(["stop", "two"], { env })).status, 0);
  const dead = envelopeOf(await smolvm(["exec", "two", "--json", "true"], { env }));
  assert.equal(dead.error?.hint, "Start it first: smolvm start two");
  const started = await smolvm(["start", "ghost", "two"], { env });
  assert.deepEqual([started.status, started.stdout.toString()], [1, "two\n"]);
  const forced = await smolvm(["rm", "--force", "ghost", "two"], { env });
  assert.deepEqual([forced.status, forced.stdout.toString(), forced.stderr], [0, "two\n", ""]);
});

test("ports are forwarded, listed and taken back", async (context) => {
  const { env } = await machineHome(context);
  assert.equal((await smolvm(["create", "--name", "web"], { env })).status, 0);
  await smolvm(["exec", "web", "--", "echo page > /index.html; httpd -p 80 -h /"], { env });
  const opened = envelopeOf(await smolvm(["port", "web", "80", "--json"], { env })).data as { hostPort: number }[];
  const port = opened[0]?.hostPort ?? 0;
  assert.equal(await (await fetch(`http://127.0.0.1:${port}/index.html`)).text(), "page\n");
  assert.equal((await smolvm(["port", "web"], { env })).stdout.toString(), `${port}:80\n`);
  const completed = await smolvm(["__complete", "port", "web", "--remove", ""], { env });
  assert.equal(completed.stdout.toString(), `${port}\tport 80 of the machine\n`);
  const closed = await smolvm(["port", "web", "--remove", String(port)], { env });
  assert.equal(closed.stdout.toString(), "", closed.stderr);
  await assert.rejects(fetch(`http://127.0.0.1:${port}/index.html`));
});

/** A guest that is very busy may still be at it: up to half a minute. */
const GONE =
  "for i in $(seq 60); do ps | grep -q '[s]leep 4242' || break; sleep 0.5; done; ps | grep -c '[s]leep 4242'";

test("Ctrl-C ends what exec runs and leaves the machine", async (context) => {
  const { env } = await machineHome(context);
  await smolvm(["create", "--name", "box"], { env });
  const child = startSmolvm(["exec", "box", "--", "echo ready; exec sleep 4242"], { env });
  await firstOutput(child);
  child.kill("SIGINT");
  const [code] = (await once(child, "close")) as [number | null];
  assert.equal(code, 130);
  const { stdout } = await smolvm(["exec", "box", "--", GONE], { env });
  assert.equal(stdout.toString(), "0\n");
});

test("shell opens a login shell on a terminal, and reads commands from a pipe without one", async (context) => {
  const { env } = await machineHome(context);
  await smolvm(["create", "--name", "box"], { env });
  const played = await onTerminal(
    ["shell", "box"],
    [["raw"], ["send", "tty; echo $((40 + 2))\r"], ["expect", "/dev/pts/"], ["expect", "42"], ["send", "exit 5\r"]],
    { env },
  );
  assert.equal(played.failed, null, played.output);
  assert.equal(played.status, 5);
  assert.ok(played.restored);
  const piped = await smolvm(["shell", "box"], { env, stdin: "echo piped\nexit 4\n" });
  assert.equal(piped.stdout.toString(), "piped\n", piped.stderr);
  assert.equal(piped.status, 4);
});

test("logs -f goes on until the machine stops", async (context) => {
  const { env } = await machineHome(context);
  await smolvm(["create", "--name", "box"], { env });
  const child = startSmolvm(["logs", "-f", "box"], { env });
  const closed = once(child, "close"); // it may end before `stop` does
  let stdout = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  await smolvm(["exec", "box", "--", "echo '<1>written later' > /dev/kmsg"], { env });
  await smolvm(["stop", "box"], { env });
  const [code] = (await closed) as [number | null];
  assert.equal(code, 0);
  assert.match(stdout, /written later/);
});

test("a machine that is not there is an error that names it", async (context) => {
  const { env } = await machineHome(context);
  for (const [args, status] of [
    [["exec", "ghost", "true"], 125],
    [["stop", "ghost"], 1],
    [["cp", "ghost:/a", "."], 1],
  ] as const) {
    const ran = await smolvm([...args], { env });
    assert.equal(ran.status, status, ran.stderr);
    assert.match(ran.stderr, /No machine with id 'ghost'/);
  }
  assert.equal((await smolvm(["rm", "--force", "ghost"], { env })).status, 0);
});

test("cp takes one file from stdin and gives one to stdout, byte for byte", async (context) => {
  const { env } = await machineHome(context);
  await smolvm(["create", "--name", "box"], { env });
  const bytes = Buffer.from(Array.from({ length: 700_000 }, (_, index) => (index * 7) % 256));
  const sent = await smolvm(["cp", "-", "box:/file"], { env, stdin: bytes });
  assert.deepEqual([sent.status, sent.stderr], [0, ""]);
  const back = await smolvm(["cp", "box:/file", "-"], { env });
  assert.equal(back.status, 0, back.stderr);
  assert.ok(back.stdout.equals(bytes));
  const empty = await smolvm(["cp", "-", "box:/empty"], { env });
  assert.equal(empty.status, 0, empty.stderr);
  assert.equal((await smolvm(["cp", "box:/empty", "-"], { env })).stdout.length, 0);

  const folder = await smolvm(["cp", "box:/", "-"], { env });
  assert.deepEqual([folder.status, folder.stdout.length], [1, 0]);
  assert.match(folder.stderr, /EISDIR/);
  const nowhere = await smolvm(["cp", "-", "box:/not/there"], { env, stdin: "x" });
  assert.equal(nowhere.status, 1);
  assert.match(nowhere.stderr, /ENOENT/);
});

test("Ctrl-C ends what somebody has stopped reading", async (context) => {
  const { env, folder } = await machineHome(context);
  await smolvm(["create", "--name", "box"], { env });
  const made = await smolvm(["exec", "box", "--", "head -c 4000000 /dev/zero > /big"], { env });
  assert.equal(made.status, 0, made.stderr);
  await appendFile(join(folder, "machines", "box", "console.log"), "line\n".repeat(60_000));
  for (const args of [
    ["cp", "box:/big", "-"],
    ["logs", "-f", "box"],
    ["exec", "box", "--", "cat /big"],
  ]) {
    const child = startSmolvm(args, { env });
    context.after(() => child.kill("SIGKILL"));
    const ended = once(child, "exit") as Promise<[number | null]>;
    // What the pipe takes, and then no more.
    await once(child.stdout, "readable");
    await setTimeout(500);
    child.kill("SIGINT");
    // Where nothing else ends it the program does so by itself, but only after 20 s.
    const ends = await Promise.race([ended, setTimeout(10_000, "it goes on", { ref: false })]);
    assert.deepEqual(ends, [130, null], args.join(" "));
  }
});

test("logs --tail shows the last lines, and with -f goes on from there", async (context) => {
  const { env } = await machineHome(context);
  await smolvm(["create", "--name", "box"], { env });
  // The kernel may have something else to say just then.
  const tail = async (): Promise<string> => {
    await smolvm(["exec", "box", "--", 'for n in 1 2 3; do echo "<1>line $n" > /dev/kmsg; done; sleep 0.3'], { env });
    return (await smolvm(["logs", "--tail", "2", "box"], { env })).stdout.toString();
  };
  await eventually("the last two lines", async () => /^.*line 2\r?\n.*line 3\r?\n$/.test(await tail()));
  assert.equal((await smolvm(["logs", "--tail", "0", "box"], { env })).stdout.length, 0);

  const child = startSmolvm(["logs", "-f", "-n", "1", "box"], { env });
  const closed = once(child, "close"); // it may end before `stop` does
  let stdout = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  await firstOutput(child); // it follows from here
  await smolvm(["exec", "box", "--", "echo '<1>line 4' > /dev/kmsg"], { env });
  await smolvm(["stop", "box"], { env });
  await closed;
  assert.match(stdout, /line [34]/);
  assert.ok(!stdout.includes("line 1"), stdout);
  assert.match(stdout, /line 4/);
});
