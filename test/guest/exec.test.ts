import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { CommandExecutionUnavailableError, GuestFileError, ValidationError } from "../../src/errors.js";
import { agentPath, type ExecRequest, type ExitStatus, type GuestConnection } from "../../src/guest/index.js";
import { OUTPUT_WINDOW } from "../../src/guest/streams.js";
import { collect, HOST_ARCH, startAgent } from "./agent.js";

interface Outcome extends ExitStatus {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

async function run(guest: GuestConnection, request: ExecRequest, input?: Buffer): Promise<Outcome> {
  const command = guest.exec(request);
  command.stdin?.end(input);
  const [stdout, stderr, status] = await Promise.all([collect(command.stdout), collect(command.stderr), command.exit]);
  return { stdout, stderr, ...status };
}

test("stdout, stderr and the exit code of a shell command arrive apart", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const result = await run(guest, { command: "echo out; echo err >&2; exit 7" });
  assert.deepEqual(
    [result.stdout.toString(), result.stderr.toString(), result.exitCode, result.signal],
    ["out\n", "err\n", 7, null],
  );
});

test("an argument vector reaches the program untouched by any shell", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const argv = ["a b", "$HOME", "*", "", "'\"\\", "é\n"];
  const result = await run(guest, { command: ["printf", "%s\\0", ...argv] });
  assert.deepEqual(result.stdout.toString().split("\0").slice(0, -1), argv);
});

test("output is byte-exact with NUL bytes, invalid UTF-8 and 50 MB of it", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const odd = Buffer.from([0, 255, 254, 0xc3, 0x28, 10, 13, 0, 0x80]);
  assert.deepEqual((await run(guest, { command: "cat", stdin: true }, odd)).stdout, odd);
  const large = randomBytes(50_000_000);
  const result = await run(guest, { command: ["cat"], stdin: true }, large);
  assert.ok(result.stdout.equals(large));
  assert.equal(result.exitCode, 0);
});

test("two commands at once don't mix, and 200 at once all give their own output", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const [a, b] = await Promise.all([
    run(guest, { command: "i=0; while [ $i -lt 2000 ]; do echo aaaa; i=$((i+1)); done" }),
    run(guest, { command: "i=0; while [ $i -lt 2000 ]; do echo bbbb; i=$((i+1)); done" }),
  ]);
  assert.equal(a.stdout.toString(), "aaaa\n".repeat(2000));
  assert.equal(b.stdout.toString(), "bbbb\n".repeat(2000));
  const many = await Promise.all(
    Array.from({ length: 200 }, (_, i) => run(guest, { command: `echo ${i}; exit ${i % 3}` })),
  );
  many.forEach((result, i) => assert.deepEqual([result.stdout.toString(), result.exitCode], [`${i}\n`, i % 3]));
});

test("a program that is missing is exit status 127, one that can't be run 126, with the reason on stderr", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const missing = await run(guest, { command: ["no-such-program"] });
  assert.equal(missing.exitCode, 127);
  assert.match(missing.stderr.toString(), /no-such-program.*no such file/);
  assert.equal((await run(guest, { command: ["/etc/passwd"] })).exitCode, 126);
});

test("a wrong user, folder, argument or variable is a typed error that names it", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  await assert.rejects(guest.exec({ command: "true", user: "nobody-here" }).exit, ValidationError);
  await assert.rejects(guest.exec({ command: "true", cwd: "/no/such" }).exit, (error) => {
    return error instanceof GuestFileError && error.code === "ENOENT" && error.path === "/no/such";
  });
  assert.throws(() => guest.exec({ command: ["a\0b"] }), ValidationError);
  assert.throws(() => guest.exec({ command: [] }), ValidationError);
  assert.throws(() => guest.exec({ command: "true", env: { "A=B": "c" } }), ValidationError);
  assert.throws(() => guest.exec({ command: ["echo", "x".repeat(300_000)] }), ValidationError);
  assert.throws(() => guest.exec({ command: "true", tty: { cols: 70_000, rows: 24 } }), ValidationError);
  assert.equal((await run(guest, { command: "echo still here" })).stdout.toString(), "still here\n");
});

test("the environment is the user's, then the machine's, then the command's", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  await guest.setEnv({ MACHINE: "m", BOTH: "machine" });
  const result = await run(guest, { command: "echo $HOME,$MACHINE,$BOTH,$OWN", env: { BOTH: "command", OWN: "o" } });
  assert.match(result.stdout.toString(), /^\/[^,]*,m,command,o\n$/);
  await guest.setEnv({});
  assert.equal((await run(guest, { command: "echo $MACHINE" })).stdout.toString(), "\n");
});

test("a command runs as the user it was given, with that user's groups, home and folder", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const named = { command: "id -un; id -gn; echo $USER", user: "daemon", cwd: "/tmp" };
  if (process.getuid?.() !== 0) {
    // An agent without privileges, as only a test has it, says so.
    await assert.rejects(guest.exec(named).exit, CommandExecutionUnavailableError);
    return;
  }
  assert.equal((await run(guest, named)).stdout.toString(), "daemon\ndaemon\ndaemon\n");
  const numbered = await run(guest, { command: "id -u; id -g; pwd", user: "12345:54321" });
  assert.equal(numbered.stdout.toString(), "12345\n54321\n/\n");
  const terminal = { command: "stat -c %U $(tty)", user: "daemon", tty: { cols: 80, rows: 24 } };
  assert.equal((await run(guest, terminal)).stdout.toString(), "daemon\r\n");
  const grouped = await run(guest, { command: "id -g", user: "daemon:nogroup" });
  assert.equal(grouped.stdout.toString(), "65534\n");
});

test("whatever stands where the users' file should be holds nobody up", async () => {
  const cage = await mkdtemp(join(tmpdir(), "smolvm-agent-users-"));
  try {
    await mkdir(join(cage, "etc"));
    await copyFile(agentPath(HOST_ARCH), join(cage, "program"));
    const passwd = join(cage, "etc", "passwd");
    const obstacles: Readonly<Record<string, () => unknown>> = {
      "a hole of a tebibyte": () => writeFile(passwd, "").then(() => truncate(passwd, 2 ** 40)),
      "a pipe": () => execFileSync("mkfifo", [passwd]),
      "a folder": () => mkdir(passwd),
      "one long line": () => writeFile(passwd, Buffer.alloc(3_000_000, "x")),
      nothing: () => undefined,
    };
    for (const [what, put] of Object.entries(obstacles)) {
      await rm(passwd, { recursive: true, force: true });
      await put();
      await using agent = startAgent(1, ["--chroot", cage]);
      const guest = await agent.connect();
      // With input, as there is no /dev/null here.
      const command = { command: ["/program"], stdin: true };
      assert.match((await run(guest, command)).stderr.toString(), /usage/, what);
      await assert.rejects(run(guest, { ...command, user: "nobody" }), /user 'nobody' does not exist/, what);
    }
  } finally {
    await rm(cage, { recursive: true, force: true });
  }
});

test("a signal reaches the whole process group and is reported", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const command = guest.exec({ command: "sleep 60 | sleep 60" });
  await command.started;
  await sleep(50);
  command.kill("SIGTERM");
  assert.deepEqual(await command.exit, { exitCode: null, signal: "SIGTERM" });
  const trapped = guest.exec({ command: "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done" });
  trapped.stdout.once("data", () => trapped.kill("SIGUSR1"));
  assert.deepEqual(await trapped.exit, { exitCode: 5, signal: null });
});

test("killTree ends what detached itself, and the agent goes on", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const nap = `31${process.pid}`;
  const command = guest.exec({
    command: `setsid sleep ${nap} & (setsid sh -c 'sleep ${nap} & sleep ${nap}' &) ; (trap '' TERM HUP; sleep ${nap}) & sleep ${nap}`,
  });
  await command.started;
  await until(async () => (await sleepers(guest, nap)) === 5);
  command.killTree();
  assert.deepEqual(await command.exit, { exitCode: null, signal: "SIGKILL" });
  await until(async () => (await sleepers(guest, nap)) === 0);
});

async function sleepers(guest: GuestConnection, nap: string): Promise<number> {
  const script = `grep -lsz '^${nap}$' /proc/[0-9]*/cmdline | wc -l`;
  return Number((await run(guest, { command: script })).stdout.toString());
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (performance.now() < deadline) {
    if (await condition()) return;
    await sleep(20);
  }
  assert.fail("it did not come to be within 30 s");
}

test("a background process that keeps the pipe open delays the end by a short grace only, and lives on", async (t) => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const folder = await mkdtemp(join(tmpdir(), "smolvm-guest-exec-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const begin = performance.now();
  const result = await run(guest, {
    command:
      'echo first; (until [ -e go ]; do sleep 0.05; done; echo late; echo "$?" > said; sleep 300) & echo $!; sleep 0.2',
    cwd: folder,
  });
  const took = performance.now() - begin;
  t.diagnostic(`ended after ${Math.round(took)} ms`);
  assert.ok(took < 30_000, `${took} ms`); // until the end of what keeps the pipe open it would be ten times as long
  const [first, pid, ...more] = result.stdout.toString().split("\n");
  assert.deepEqual([first, more], ["first", [""]]);
  await writeFile(join(folder, "go"), "");
  const said = join(folder, "said");
  await until(async () => (await readFile(said, "utf8").catch(() => "")).endsWith("\n"));
  assert.ok(process.kill(Number(pid), 0), "it was ended by its write to the closed pipe");
  process.kill(Number(pid), "SIGKILL");
});

test("everything that was written before the end arrives, however slow the reader is", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const command = guest.exec({ command: "head -c 3000000 /dev/zero; sleep 30 & exit 4" });
  let size = 0;
  for await (const piece of command.stdout as AsyncIterable<Buffer>) {
    size += piece.length;
    await sleep(2);
  }
  assert.equal(size, 3_000_000);
  assert.equal((await command.exit).exitCode, 4);
});

test("a terminal has its size, merges both outputs, passes control characters and hangs up at the end", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const command = guest.exec({
    command: "stty size; echo err >&2; read line; echo got $line; stty size; read line; echo no",
    tty: { cols: 101, rows: 31 },
  });
  let seen = "";
  command.stdout.on("data", (piece: Buffer) => (seen += piece.toString()));
  await until(() => Promise.resolve(seen.includes("31 101\r\nerr\r\n")));
  command.resize({ cols: 55, rows: 22 });
  command.stdin?.write("typed\r");
  await until(() => Promise.resolve(/got typed[^]*22 55/.test(seen)));
  command.stdin?.write("\x03");
  assert.deepEqual(await command.exit, { exitCode: null, signal: "SIGINT" });
  for (const input of ["line\r", "unfinished"]) {
    const ended = guest.exec({ command: "cat", tty: { cols: 80, rows: 24 } });
    ended.stdin?.end(input);
    assert.match((await collect(ended.stdout)).toString(), new RegExp(input.trim()));
    assert.equal((await ended.exit).exitCode, 0);
  }
});

test("closing a command's output gives it SIGPIPE, as the end of a pipe does", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const command = guest.exec({ command: ["yes"] });
  command.stdout.once("data", () => command.stdout.destroy());
  assert.deepEqual(await command.exit, { exitCode: null, signal: "SIGPIPE" });
});

test("a program that does not read its input doesn't stop the writer for ever", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const command = guest.exec({ command: "head -c 5", stdin: true });
  command.stdin?.end(Buffer.alloc(5_000_000, 65));
  assert.equal((await collect(command.stdout)).toString(), "AAAAA");
  assert.equal((await command.exit).exitCode, 0);
});

test("a reader that stops, stops the command; both sides stay small; afterwards every byte is there", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const total = 256 * 1024 * 1024;
  const command = guest.exec({ command: `head -c ${total} /dev/zero` });
  const memory = process.memoryUsage().rss;
  command.stdout.once("readable", () => undefined);
  // Until no more comes.
  let lay = -1;
  await until(async () => {
    const before = lay;
    lay = command.stdout.readableLength;
    await sleep(300);
    return lay > 0 && lay === before;
  });
  assert.ok(lay <= OUTPUT_WINDOW, `${lay} bytes lie unread`);
  assert.ok(process.memoryUsage().rss - memory < 100_000_000, "the host keeps what nobody reads");
  assert.ok((await residentBytes(agent.process.pid)) < 12_000_000, "the agent keeps what it can't send");
  assert.equal((await run(guest, { command: "echo others go on" })).stdout.toString(), "others go on\n");
  const hash = createHash("sha256");
  let size = 0;
  for await (const piece of command.stdout as AsyncIterable<Buffer>) {
    size += piece.length;
    hash.update(piece);
  }
  assert.equal(size, total);
  assert.equal(hash.digest("hex"), "a6d72ac7690f53be6ae46ba88506bd97302a093f7108472bd9efc3cefda06484");
});

test("commands that print without end don't keep others from the lane, nor each other", async (t) => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const floods = Array.from({ length: 6 }, () => guest.exec({ command: ["yes"] }));
  const received = floods.map(() => 0);
  floods.forEach((flood, i) =>
    flood.stdout.on("data", (piece: Buffer) => (received[i] = (received[i] ?? 0) + piece.length)),
  );
  await until(() => Promise.resolve(received.every((size) => size > 0)));
  received.fill(0); // from when all run
  // None is starved. How evenly they share is the host's scheduler's affair too.
  await until(() => Promise.resolve(received.every((size) => size > 10_000_000)));
  t.diagnostic(`received, in MB: ${received.map((size) => Math.round(size / 1e6)).join(" ")}`);
  assert.ok(Math.max(...received) < 100 * Math.min(...received), received.join(" "));
  assert.equal((await run(guest, { command: "echo through" })).stdout.toString(), "through\n");
  for (const flood of floods) flood.kill("SIGKILL");
  await Promise.all(floods.map((flood) => flood.exit));
});

async function residentBytes(pid: number | undefined): Promise<number> {
  const status = await readFile(`/proc/${pid ?? 0}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

test("an agent that dies fails every pending command at once, with streams and all", async (t) => {
  await using agent = startAgent();
  const guest = await agent.connect();
  const command = guest.exec({ command: "sleep 60", stdin: true });
  const pid = await command.started;
  const outcomes = Promise.allSettled([
    command.exit,
    collect(command.stdout),
    guest.files.readFile("/dev/zero"),
    guest.ping(),
  ]);
  agent.process.kill("SIGKILL");
  const begin = performance.now();
  const [exit, stdout, file] = await outcomes;
  const took = performance.now() - begin;
  t.diagnostic(`all failed after ${Math.round(took)} ms`);
  assert.ok(took < 10_000, `${took} ms`); // of the command itself nothing would come before a minute has passed
  for (const outcome of [exit, stdout, file]) {
    assert.equal(outcome.status, "rejected");
    assert.ok(outcome.reason instanceof CommandExecutionUnavailableError);
  }
  assert.ok((await guest.closed) instanceof CommandExecutionUnavailableError);
  assert.throws(() => guest.exec({ command: "true" }), CommandExecutionUnavailableError);
  process.kill(pid, "SIGKILL");
});

test("closing the connection kills what still runs on it, and nothing of another lane", async () => {
  await using agent = startAgent(2);
  const [one, two] = [await agent.connect(0), await agent.connect(1)];
  assert.deepEqual([one.agent.lane, two.agent.lane], [0, 1]);
  const nap = `32${process.pid}`;
  const doomed = one.exec({ command: ["sleep", nap] });
  await doomed.started;
  const kept = two.exec({ command: "read line; echo $line", stdin: true });
  await kept.started;
  one.close();
  await assert.rejects(doomed.exit, CommandExecutionUnavailableError);
  await until(async () => (await sleepers(two, nap)) === 0);
  kept.stdin?.end("kept\n");
  assert.equal((await collect(kept.stdout)).toString(), "kept\n");
});

test("an agent that is not a machine's first process grows nobody's file system", async () => {
  await using agent = startAgent();
  const guest = await agent.connect();
  await assert.rejects(guest.growRoot(), (error: unknown) => {
    assert.ok(error instanceof CommandExecutionUnavailableError);
    assert.equal(error.details["errno"], "EPERM");
    return true;
  });
});
