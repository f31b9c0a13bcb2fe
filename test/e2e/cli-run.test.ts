import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { acquireLock } from "../../src/host/lock.js";
import { machineFiles } from "../../src/machine/state.js";
import { machineHome } from "../cli/machines.js";
import { serveImages } from "../cli/registry.js";
import { BIN, envelopeOf, environment, firstOutput, smolvm, startSmolvm } from "../cli/smolvm.js";

test("run passes output and exit status on, stdout and stderr apart", async (context) => {
  const { env, machines } = await machineHome(context);
  const ran = await smolvm(["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], { env });
  assert.equal(ran.status, 7);
  assert.equal(ran.stdout.toString(), "out\n");
  assert.equal(ran.stderr, "err\n");
  assert.deepEqual(await machines(), []);
});

test("output is byte for byte what the command wrote", async (context) => {
  const { env } = await machineHome(context);
  const ran = await smolvm(["run", "--", "head -c 3000000 /dev/zero; printf '\\377\\000\\n\\r\\n'"], { env });
  assert.equal(ran.status, 0, ran.stderr);
  assert.equal(ran.stdout.length, 3_000_005);
  assert.ok(ran.stdout.subarray(0, 3_000_000).every((byte) => byte === 0));
  assert.deepEqual([...ran.stdout.subarray(3_000_000)], [255, 0, 10, 13, 10]);
});

test("piped input reaches the command with -i, and only then", async (context) => {
  const { env } = await machineHome(context);
  const input = Buffer.from(Array.from({ length: 200_000 }, (_, index) => index % 256));
  const echoed = await smolvm(["run", "-i", "--", "cat"], { env, stdin: input });
  assert.equal(echoed.status, 0, echoed.stderr);
  assert.ok(echoed.stdout.equals(input));
  const without = await smolvm(["run", "--", "cat"], { env, stdin: "nothing of this" });
  assert.equal(without.stdout.length, 0);
});

test("several words are an argument vector, a single word is a line for the shell", async (context) => {
  const { env } = await machineHome(context);
  const words = await smolvm(["run", "echo", "a  b", "$HOME", "|", "cat"], { env });
  assert.equal(words.stdout.toString(), "a  b $HOME | cat\n", words.stderr);
  const line = await smolvm(["run", "echo one two | wc -w"], { env });
  assert.equal(line.stdout.toString().trim(), "2");
});

test("a signal that ends the command is 128 + n, a program that is not there is 127", async (context) => {
  const { env } = await machineHome(context);
  assert.equal((await smolvm(["run", "--", "sh", "-c", "kill -TERM $$"], { env })).status, 143);
  assert.equal((await smolvm(["run", "--", "no-such-program", "x"], { env })).status, 127);
});

test("--timeout ends the command with 124 and leaves nothing", async (context) => {
  const { env, machines } = await machineHome(context);
  const line = "echo so far; printf 'e\\377' >&2; sleep 60";
  const ran = await smolvm(["run", "--timeout", "5s", "--json", "--", line], { env });
  assert.equal(ran.status, 124);
  const { error, exitCode, data } = envelopeOf(ran);
  assert.deepEqual([error?.code, exitCode], ["OPERATION_TIMEOUT", 124]);
  assert.equal(ran.stderr, "smolvm: The command did not finish within 5000 ms.\n");
  // What was printed until then is not lost.
  const output = { stdout: "so far\n", stderr: "e\ufffd", stderrBase64: "Zf8=" };
  assert.deepEqual(data, { exitCode: null, signal: null, ...output });
  assert.deepEqual(await machines(), []);
});

test("what smolvm itself fails at is 125, with a hint", async (context) => {
  const { env } = await machineHome(context);
  const ran = await smolvm(["run", "--image", "nothing-like-it", "--", "true"], { env });
  assert.equal(ran.status, 125);
  assert.match(ran.stderr, /^smolvm: Unknown image: 'nothing-like-it'/);
});

test("an image whose kernel is none is said so, and leaves no machine", async (context) => {
  const { env: served } = await serveImages(context);
  const { env: home, machines } = await machineHome(context);
  const env = { ...served, SMOLVM_HOME: home["SMOLVM_HOME"] ?? "" };
  const ran = await smolvm(["run", "--image", "one", "--json", "--", "true"], { env });
  assert.equal(ran.status, 125);
  const { error } = envelopeOf(ran);
  assert.equal(error?.code, "IMAGE_INVALID");
  assert.match(error.message, /can.t be used as a kernel/);
  assert.match(error.hint ?? "", /kernel/);
  assert.deepEqual(await machines(), []);
});

test("--json holds the output of the command in one envelope", async (context) => {
  const { env } = await machineHome(context);
  const ran = await smolvm(["run", "--json", "--", "printf 'a\\377'; echo err >&2; exit 3"], { env });
  assert.equal(ran.status, 3);
  assert.deepEqual(envelopeOf(ran), {
    ok: false,
    command: "run",
    exitCode: 3,
    data: { exitCode: 3, signal: null, stdout: "a\ufffd", stdoutBase64: "Yf8=", stderr: "err\n" },
    error: null,
  });
});

test("variables, user, folder, copies and size of the machine are those of the options", async (context) => {
  const { env, folder } = await machineHome(context);
  await mkdir(join(folder, "job"));
  await writeFile(join(folder, "job", "data"), "content");
  const options = ["-e", "GREETING=hi there", "-e", "PASSED_ON", "--cpus", "2", "--memory", "256", "-w", "/job"];
  const copy = ["-v", `${join(folder, "job")}:/job`];
  const script =
    "echo $GREETING; echo $PASSED_ON; nproc; cat data; echo; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
  const ran = await smolvm(["run", ...options, ...copy, "--", script], { env: { ...env, PASSED_ON: "from outside" } });
  assert.equal(ran.status, 0, ran.stderr);
  const [greeting, passedOn, cpus, content, memory] = ran.stdout.toString().split("\n");
  assert.deepEqual([greeting, passedOn, cpus, content], ["hi there", "from outside", "2", "content"]);
  assert.ok(Number(memory) > 150 && Number(memory) <= 256, memory);
});

for (const [signal, status] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
] as const) {
  test(`${signal} ends the command and its machine, with ${status}, and leaves nothing`, async (context) => {
    const { env, machines } = await machineHome(context);
    const child = startSmolvm(["run", "--", "echo ready; sleep 600"], { env });
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    await firstOutput(child);
    child.kill(signal);
    const [code] = (await once(child, "close")) as [number | null];
    assert.equal(code, status, stderr);
    assert.equal(stderr, "");
    assert.deepEqual(await machines(), []);
  });
}

test("Ctrl-C at any moment of the start leaves nothing", async (context) => {
  const { env, machines } = await machineHome(context);
  for (const delay of [100, 250, 400, 600, 900, 1300]) {
    const child = startSmolvm(["run", "--", "sleep", "600"], { env });
    await sleep(delay);
    child.kill("SIGINT");
    const [code, signal] = (await once(child, "close")) as [number | null, string | null];
    // Before smolvm listens for it, the signal does what it does to any program.
    assert.ok(code === 130 || signal === "SIGINT", `${delay} ms: ${code ?? ""} ${signal ?? ""}`);
    assert.deepEqual(await machines(), [], `after ${delay} ms`);
  }
});

test("what a smolvm that was killed left behind is gone after the next command that looks", async (context) => {
  const { env, machines } = await machineHome(context);
  const child = startSmolvm(["run", "--", "echo ready; sleep 600"], { env });
  await firstOutput(child);
  child.kill("SIGKILL");
  await once(child, "close");
  assert.deepEqual(envelopeOf(await smolvm(["ls", "--json"], { env })).data, []);
  assert.deepEqual(await machines(), []);
});

test("an id that is taken and a machine that can't be are said before anything is started", async (context) => {
  const { env, machines } = await machineHome(context);
  const tooMany = await smolvm(["run", "--cpus", "99", "--json", "--", "true"], { env });
  assert.deepEqual([tooMany.status, envelopeOf(tooMany).error?.code], [2, "VALIDATION"]);
  assert.match(envelopeOf(tooMany).error?.message ?? "", /--cpus is 99; allowed is a whole number from 1 to 32/);
  const badId = await smolvm(["run", "--name", "../x", "--", "true"], { env });
  assert.equal(badId.status, 2);
  assert.deepEqual(await machines(), []);
});

test("a second Ctrl-C ends smolvm at once", async (context) => {
  const { env } = await machineHome(context);
  const child = startSmolvm(["run", "--name", "box", "--", "echo ready; sleep 600"], { env });
  const closed = once(child, "close");
  await firstOutput(child);
  // To end in order it has to wait for this program, as long as an orderly end may take.
  const lock = await acquireLock(machineFiles(join(env["SMOLVM_HOME"] ?? "", "machines", "box")).lock);
  child.kill("SIGINT");
  while (isPending(child.pid ?? 0)) await sleep(5); // two that wait to be taken are one
  await sleep(500);
  assert.equal(child.exitCode, null, "the first one alone takes longer");
  child.kill("SIGINT");
  const started = performance.now();
  const [code] = (await closed) as [number | null];
  const took = performance.now() - started;
  lock.release();
  assert.equal(code, 130);
  context.diagnostic(`ended after ${Math.round(took)} ms`);
  assert.ok(took < 10_000, `${took} ms`); // with the first one alone it would be twice as long
  // What it left in its hurry is swept by the next command that looks.
  assert.deepEqual(envelopeOf(await smolvm(["ls", "--json"], { env })).data, []);
});

/** Whether a SIGINT to this process has not been taken yet. */
function isPending(pid: number): boolean {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return [...status.matchAll(/^(?:Sig|Shd)Pnd:\s+([0-9a-f]+)$/gm)].some(
    ([, set = "0"]) => (parseInt(set, 16) & 2) !== 0,
  );
}

test("'run … | head -1' ends without a word, and its machine with it", async (context) => {
  const { env, machines } = await machineHome(context);
  const line = `"${process.execPath}" "${BIN}" run -- yes | head -1; echo "\${PIPESTATUS[0]}"`;
  const shell = spawn("bash", ["-c", line], { env: environment(env), stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  shell.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  shell.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  await once(shell, "close");
  assert.equal(stdout, "y\n141\n");
  assert.equal(stderr, "");
  assert.deepEqual(await machines(), []);
});

test("a published port of 127.0.0.1 reaches a server in the machine", async (context) => {
  const { env } = await machineHome(context);
  const script = "echo from the machine > /index.html; httpd -p 8080 -h /; echo ready; sleep 600";
  const child = startSmolvm(["run", "-p", "8080", "--", script], { env });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  await firstOutput(child);
  const port = /port 8080 of the machine is 127\.0\.0\.1:(\d+) here/.exec(stderr)?.[1];
  assert.ok(port !== undefined, stderr);
  const answer = await fetch(`http://127.0.0.1:${port}/index.html`);
  assert.equal(await answer.text(), "from the machine\n");
  child.kill("SIGINT");
  await once(child, "close");
});
