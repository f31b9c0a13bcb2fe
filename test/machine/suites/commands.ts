import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { Readable } from "node:stream";

import { CommandExecutionUnavailableError, OperationTimeoutError, ValidationError } from "../../../src/errors.js";
import type { SmolVM, VMOptions } from "../../../src/machine/index.js";
import { eventually, leftOvers, type Home } from "../setting.js";

/** What commands do, on a machine of any architecture. */
export function commandTests(name: string, home: Home, create: (options: VMOptions) => Promise<SmolVM>): void {
  describe(name, () => {
    let vm: SmolVM;
    /** How many of the processes in the guest are a `sleep` of so many seconds, told by how the number begins. */
    const sleepers = async (digits: string): Promise<number> =>
      (await vm.run("ps -o args")).stdout.match(new RegExp(`^sleep ${digits}\\d\\s*$`, "gm"))?.length ?? 0;
    before(async () => {
      vm = await create({ envVars: { FROM_CONFIG: "1" } });
    });
    after(async () => {
      await vm.delete();
      assert.deepEqual(await leftOvers(home.folder), []);
    });

    test("a command's output, error output and exit code come back apart, in a frozen result", async () => {
      const result = await vm.run("echo out; echo err >&2; exit 3");
      assert.equal(result.stdout, "out\n");
      assert.equal(result.stderr, "err\n");
      assert.equal(result.output, "out");
      assert.equal(result.exitCode, 3);
      assert.equal(result.signal, null);
      assert.equal(result.ok, false);
      assert.ok(result.durationMs > 0);
      assert.ok(Object.isFrozen(result));
      assert.equal((await vm.run(["true"])).ok, true);
    });

    test("a string goes through the guest's shell, a list does not", async () => {
      assert.equal((await vm.run("echo $((6 * 7)) | tr 4 5")).stdout, "52\n");
      assert.equal((await vm.run(["echo", "$((6 * 7))", "a b", "'"])).stdout, "$((6 * 7)) a b '\n");
    });

    test("a command that a signal ended says so, and one that is not there has exit code 127", async () => {
      const killed = await vm.run("kill -KILL $$");
      assert.deepEqual([killed.exitCode, killed.signal, killed.ok], [null, "SIGKILL", false]);
      assert.equal((await vm.run(["no-such-program"])).exitCode, 127);
    });

    test("bytes that are no text, NUL among them, come back as they were written", async () => {
      const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
      const { stdoutBytes, stderrBytes } = await vm.run("tee /dev/stderr", { stdin: bytes });
      assert.ok(stdoutBytes.equals(bytes));
      assert.ok(stderrBytes.equals(bytes));
    });

    test("50 MB of output arrive byte-exact", async (context) => {
      const size = 50 * 1000 * 1000;
      const { stdoutBytes, durationMs } = await vm.run(
        `yes 'smolvm counts its bytes' | head -c ${size} | tee /tmp/sum.in; sha256sum < /tmp/sum.in >&2; rm /tmp/sum.in`,
      );
      const line = Buffer.from("smolvm counts its bytes\n");
      const expected = Buffer.concat(Array.from({ length: Math.ceil(size / line.length) }, () => line)).subarray(
        0,
        size,
      );
      assert.equal(stdoutBytes.length, size);
      assert.equal(
        createHash("sha256").update(stdoutBytes).digest("hex"),
        createHash("sha256").update(expected).digest("hex"),
      );
      context.diagnostic(`50 MB in ${Math.round(durationMs)} ms`);
    });

    test("two commands at once don't mix, and neither do two hundred", async (context) => {
      const letters = await Promise.all(
        ["a", "b"].map((letter) => vm.run(`for i in $(seq 2000); do echo ${letter.repeat(40)}; done`)),
      );
      assert.deepEqual(
        letters.map(({ stdout }) => new Set(stdout.trim().split("\n"))),
        [new Set(["a".repeat(40)]), new Set(["b".repeat(40)])],
      );
      const started = performance.now();
      const results = await Promise.all(Array.from({ length: 200 }, (_, index) => vm.run(["echo", String(index)])));
      assert.deepEqual(
        results.map(({ output }) => output),
        results.map((_, index) => String(index)),
      );
      context.diagnostic(`200 commands at once in ${Math.round(performance.now() - started)} ms`);
    });

    test("input comes from a string, bytes or a stream, and a command need not read it", async () => {
      assert.equal((await vm.run("tr a-z A-Z", { stdin: "text" })).stdout, "TEXT");
      const pieces = Readable.from([Buffer.from("one "), Buffer.from("two")]);
      assert.equal((await vm.run(["cat"], { stdin: pieces })).stdout, "one two");
      assert.equal((await vm.run(["true"], { stdin: Buffer.alloc(1_000_000) })).exitCode, 0);
      assert.equal((await vm.run(["cat"])).stdout, "");
    });

    test("a stream that fails ends the command with the stream's error", async () => {
      const broken = new Readable({
        read() {
          this.destroy(new Error("no more paper"));
        },
      });
      await assert.rejects(vm.run(["cat"], { stdin: broken }), /no more paper/);
    });

    test("environment, working folder and user are the command's own", async () => {
      const { stdout } = await vm.run('echo "$FROM_CONFIG $MINE"; pwd', { env: { MINE: "2" }, cwd: "/etc" });
      assert.equal(stdout, "1 2\n/etc\n");
      assert.equal((await vm.run("id -u; id -g", { user: "65534:65533" })).stdout, "65534\n65533\n");
      await assert.rejects(vm.run("true", { user: "nobody-of-that-name" }), ValidationError);
      await assert.rejects(vm.run("true", { cwd: "/no/such/folder" }), { code: "ENOENT" });
    });

    test("variables that are set last for later commands until they are taken back", async () => {
      await vm.setEnvVars({ COLOUR: "blue", SHAPE: "round" });
      assert.equal((await vm.run("echo $COLOUR $SHAPE $FROM_CONFIG")).output, "blue round 1");
      await vm.unsetEnvVars(["SHAPE", "NEVER_SET"]);
      assert.equal((await vm.run("echo $COLOUR $SHAPE")).output, "blue");
      assert.deepEqual(await vm.listEnvVars(), { FROM_CONFIG: "1", COLOUR: "blue" });
      await assert.rejects(vm.setEnvVars({ "NOT A NAME": "x" }), /envVars has 'NOT A NAME'/);
      await vm.unsetEnvVars(["COLOUR"]);
    });

    test("output is handed over while the command runs", async () => {
      const seen: string[] = [];
      const input = new Readable({ read: () => undefined });
      // It goes on when it is told to, which it is once its first output is here.
      const { stdout, stderr } = await vm.run("echo now; echo bad >&2; read line; echo $line", {
        stdin: input,
        timeoutMs: 60_000,
        onStdout: (chunk) => {
          seen.push(chunk.toString());
          if (seen.includes("now\n") && !input.readableEnded) input.push("later\n");
        },
        onStderr: (chunk) => seen.push(chunk.toString()),
      });
      input.destroy();
      assert.equal(stdout, "now\nlater\n");
      assert.equal(stderr, "bad\n");
      assert.deepEqual([...seen].sort(), ["bad\n", "later\n", "now\n"]);
    });

    test("a callback that throws ends the command with its error", async () => {
      const failing = vm.run("echo x; sleep 100", {
        onStdout: () => {
          throw new Error("the reader gave up");
        },
      });
      await assert.rejects(failing, /the reader gave up/);
      await eventually("the command is gone", async () => !(await vm.run("ps")).stdout.includes("sleep 100"));
    });

    test("a time-out kills all that the command started, daemons too, and the machine stays usable", async (context) => {
      const timeoutMs = 4000;
      const started = performance.now();
      const daemons =
        "(setsid sleep 4321 &) ; setsid sh -c 'sleep 4322 & exec sleep 4323' & (trap '' HUP TERM; sleep 4324) & sleep 4325";
      const outcome = Promise.allSettled([vm.run(daemons, { timeoutMs })]);
      let most = 0;
      while (most < 5 && performance.now() - started < timeoutMs) most = Math.max(most, await sleepers("432"));
      const [result] = await outcome;
      const took = performance.now() - started;
      assert.equal(most, 5, "all of them have run");
      assert.ok(result.status === "rejected" && result.reason instanceof OperationTimeoutError);
      assert.deepEqual([result.reason.operation, result.reason.timeoutMs], ["run", timeoutMs]);
      context.diagnostic(`rejected ${Math.round(took - timeoutMs)} ms after the time was up`);
      assert.ok(took < timeoutMs + 20_000, `rejected after ${took} ms`);
      // Only a guest that is too busy to confirm it within two seconds may still be at it.
      if (took < timeoutMs + 1500) assert.equal(await sleepers("432"), 0);
      else await eventually("none is left", async () => (await sleepers("432")) === 0);
    });

    test("what a command printed before its time was up comes with the error, and its streams end with it", async () => {
      await assert.rejects(vm.run("echo so far; echo trouble >&2; sleep 60", { timeoutMs: 4000 }), (error: unknown) => {
        assert.ok(error instanceof OperationTimeoutError);
        assert.equal(error.details["stdout"], "so far\n");
        assert.equal(error.details["stderr"], "trouble\n");
        return true;
      });
      const endless = vm.spawn("yes", { timeoutMs: 1000 });
      const reading = (async () => {
        for await (const chunk of endless.stdout) assert.ok((chunk as Buffer).length > 0);
      })();
      await assert.rejects(reading, OperationTimeoutError);
      await assert.rejects(endless.wait(), OperationTimeoutError);
    });

    test("aborting a command kills it and rejects with the caller's own reason", async () => {
      const reason = new Error("changed my mind");
      const controller = new AbortController();
      const running = vm.run("sleep 5432 & sleep 5433", { signal: controller.signal });
      const outcome = Promise.allSettled([running]);
      await eventually("both run", async () => (await sleepers("543")) === 2);
      controller.abort(reason);
      const [result] = await outcome;
      assert.ok(result.status === "rejected" && result.reason === reason);
      await eventually("none is left", async () => (await sleepers("543")) === 0);
      await assert.rejects(vm.run("true", { signal: AbortSignal.abort(reason) }), (error) => error === reason);
    });

    test("spawn gives streams both ways, and a signal to the whole group", async () => {
      const echo = vm.spawn(["cat"]);
      assert.ok((await echo.pid) > 1);
      echo.stdin?.write("first ");
      echo.stdin?.end("second");
      let text = "";
      for await (const chunk of echo.stdout) text += String(chunk);
      assert.equal(text, "first second");
      assert.deepEqual(await echo.wait(), { exitCode: 0, signal: null });

      const group = vm.spawn("sleep 6543 & sleep 6544; true", { stdin: false });
      assert.equal(group.stdin, null);
      await group.pid;
      await eventually("both run", async () => (await sleepers("654")) === 2);
      group.kill("SIGTERM");
      assert.deepEqual(await group.wait(), { exitCode: null, signal: "SIGTERM" });
      await eventually("both are gone", async () => !(await vm.run("ps")).stdout.includes("sleep 654"));
    });

    test("a command with a terminal sees its size and every change of it", async () => {
      // What it says comes after it listens: the change is made as soon as that is seen.
      const shell = vm.spawn("trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.1; done", {
        tty: { cols: 101, rows: 33 },
      });
      let text = "";
      shell.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
      await eventually("the first size", () => text.includes("33 101"));
      shell.resize({ cols: 90, rows: 20 });
      await eventually("the second size", () => text.includes("20 90"));
      await shell.wait();
    });

    test("arguments that can't be meant are refused by name", async () => {
      await assert.rejects(vm.run(""), /command is ''/);
      await assert.rejects(vm.run([]), /command is \[\]/);
      await assert.rejects(vm.run("a\0b"), ValidationError);
      await assert.rejects(vm.run("true", { timeoutMs: 0 }), /timeoutMs is 0/);
      await assert.rejects(vm.run("true", { timeout: 5 } as object), /run has no field 'timeout'/);
      assert.throws(() => vm.spawn("true", { tty: { cols: 0, rows: 1 } }), /tty is/);
    });

    test("when the guest's kernel panics, pending calls fail at once and say why", async (context) => {
      const pending = [vm.run("sleep 1000"), vm.files.readFile("/dev/zero"), vm.spawn("sleep 1001").wait()];
      const settled = Promise.allSettled(pending.map((call) => call.finally(() => (lastAt = performance.now()))));
      let lastAt = 0;
      await vm.run("true");
      const started = performance.now();
      let panickedAt = 0;
      const watching = setInterval(() => {
        if (panickedAt === 0 && vm.console().includes("Kernel panic")) panickedAt = performance.now();
      }, 5).unref();
      vm.spawn("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger");
      for (const outcome of await settled) {
        assert.equal(outcome.status, "rejected");
        assert.ok(outcome.reason instanceof CommandExecutionUnavailableError);
        assert.match(outcome.reason.message, /has ended: the guest's kernel panicked: sysrq triggered crash/);
        assert.ok(outcome.reason.cause instanceof Error);
      }
      clearInterval(watching);
      // From the first word of it on the console: how long the guest takes to come to it is not what is measured.
      const took = lastAt - (panickedAt || lastAt);
      assert.ok(took < 10_000, `all failed after ${took} ms`);
      assert.equal(vm.status, "error");
      assert.match(vm.console(), /Kernel panic/);
      await assert.rejects(vm.run("true"), /kernel panicked/);
      context.diagnostic(
        `from the panic to the last failed call: ${Math.round(took)} ms; from the command: ${Math.round(lastAt - started)} ms`,
      );
    });
  });
}
