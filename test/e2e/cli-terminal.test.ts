import assert from "node:assert/strict";
import { test } from "node:test";

import { machineHome } from "../cli/machines.js";
import { onTerminal, type Step } from "../cli/smolvm.js";

test("run -it gives a shell a real terminal, with its size and its changes of size", async (context) => {
  const { env, machines } = await machineHome(context);
  const played = await onTerminal(
    ["run", "-it", "--", "sh"],
    [
      ["raw"],
      ["send", "stty size; tty\r"],
      ["expect", "30 100"],
      ["expect", "/dev/pts/"],
      ["resize", 71, 23],
      // What is typed and the new size come on different ways.
      ["send", "until stty size | grep -q '23 7[1]'; do sleep 0.1; done; stty size\r"],
      ["expect", "23 71"],
      ["send", "exit 9\r"],
    ],
    { env },
  );
  assert.equal(played.failed, null, played.output);
  assert.equal(played.status, 9);
  assert.ok(played.restored);
  assert.deepEqual(await machines(), []);
});

test("with -t Ctrl-C goes to the guest: it interrupts the command there, and the shell goes on", async (context) => {
  const { env } = await machineHome(context);
  const played = await onTerminal(
    ["run", "-it", "--", "sh"],
    [
      ["raw"],
      // The one that says it is ready is the one that sleeps: a shell that has just started another program loses a Ctrl-C
      // that comes before it has given that one the terminal.
      ["send", "sh -c 'echo rea\"\"dy; exec sleep 600'\r"],
      ["expect", "ready"],
      ["send", "\u0003"],
      ["expect", "~ # "],
      ["send", "echo status $?\r"],
      ["expect", "status 130"],
      // Only at its prompt does the shell read Ctrl-D as such; before, the guest's terminal makes a NUL of it.
      ["expect", "~ # "],
      ["send", "\u0004"],
    ],
    { env },
  );
  assert.equal(played.failed, null, played.output);
  assert.ok(played.restored);
});

test("the terminal is put back when a signal ends smolvm in the middle", async (context) => {
  const { env, machines } = await machineHome(context);
  const played = await onTerminal(
    ["run", "-it", "--", "sh"],
    [["raw"], ["send", "echo rea''dy\r"], ["expect", "ready"], ["signal", "SIGTERM"]],
    { env },
  );
  assert.equal(played.failed, null, played.output);
  assert.equal(played.status, 143);
  assert.ok(played.restored);
  assert.deepEqual(await machines(), []);
});

test("the terminal is put back when the command's time is up", async (context) => {
  const { env } = await machineHome(context);
  const played = await onTerminal(["run", "-it", "--timeout", "5", "--", "sleep", "600"], [["raw"]], { env });
  assert.equal(played.status, 124, played.output);
  assert.ok(played.restored);
});

test("without -t Ctrl-C on the terminal ends run with 130", async (context) => {
  const { env, machines } = await machineHome(context);
  const played = await onTerminal(
    ["run", "--", "echo ready; sleep 600"],
    [
      ["expect", "ready"],
      ["send", "\u0003"],
    ],
    { env },
  );
  assert.equal(played.failed, null, played.output);
  assert.equal(played.status, 130);
  assert.ok(played.restored);
  assert.deepEqual(await machines(), []);
});

test("a window that is closed ends run by SIGHUP, as it ends other programs, and its machine with it", async (context) => {
  const { env, machines } = await machineHome(context);
  for (const args of [
    ["run", "-it", "--", "sh"],
    ["run", "--", "echo ready; sleep 600"],
  ]) {
    const steps: Step[] = [["expect", "ready"], ["close"]];
    if (args.includes("-it")) steps.unshift(["raw"], ["send", "echo rea''dy\r"]);
    const played = await onTerminal(args, steps, { env });
    assert.equal(played.failed, null, played.output);
    assert.equal(played.status, 129);
    assert.deepEqual(await machines(), []);
  }
});

test("a terminal that was never told its size counts as one of 80 columns", async (context) => {
  const { env } = await machineHome(context);
  const played = await onTerminal(["run", "-t", "--", "stty size"], [], { env, columns: 0, rows: 0 });
  assert.match(played.output, /^24 80\r+\n$/);
});
