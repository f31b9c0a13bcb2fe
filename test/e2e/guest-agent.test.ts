import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { CommandExecutionUnavailableError } from "../../src/errors.js";
import { connectGuest, type ExecRequest, type GuestConnection } from "../../src/guest/index.js";
import { collect } from "../guest/agent.js";
import { eventually } from "../machine/setting.js";
import { AgentMachine } from "./agent-machine.js";

async function run(guest: GuestConnection, command: string, options: Partial<ExecRequest> = {}): Promise<string> {
  const process = guest.exec({ command, ...options });
  const [output] = await Promise.all([collect(process.stdout), collect(process.stderr), process.exit]);
  return output.toString();
}

const EMPTY = { hostname: null, env: {}, network: null, clockMs: null, entropy: null, mounts: [] } as const;

for (const arch of ["x86_64", "arm64"] as const) {
  test(`as first process of an ${arch} machine the agent keeps it in order`, async (context) => {
    const machine = await AgentMachine.boot(context, { arch });
    const guest = await machine.connect();
    assert.deepEqual([guest.agent.init, guest.agent.configured], [true, false]);
    const clockMs = Date.UTC(2033, 4, 18);
    await guest.configure({ ...EMPTY, hostname: "box-1", env: { SET: "yes" }, clockMs, entropy: Buffer.alloc(64, 7) });
    assert.match(
      await run(guest, "hostname; echo $SET; date -u +%Y; cat /etc/machine-id"),
      /^box-1\nyes\n2033\n[0-9a-f]{32}\n$/,
    );
    assert.match(await run(guest, "cat /etc/hosts"), /^127\.0\.1\.1\s+box-1$/m);
    // A cgroup of its own, so that nothing has to be marked; the limits of a normal system; no privileges kept.
    assert.match(
      await run(guest, "cat /proc/self/cgroup; cat /proc/self/oom_score_adj; ulimit -n; env"),
      /^0::\/smolvm\/c\d+\n0\n1024\n/,
    );
    assert.doesNotMatch(await run(guest, "env"), /SMOLVM/);
    assert.match(await run(guest, "grep Cap /proc/self/status", { user: "1000" }), /CapEff:\s+0{16}/);

    const nap = guest.exec({ command: "setsid sleep 4711 & (setsid sh -c 'sleep 4711 & sleep 4711' &) & sleep 4711" });
    await nap.started;
    const sleepers = (): Promise<string> => run(guest, "ps -o args | grep -c '^sleep 471[1]'");
    await eventually("all four sleep", async () => (await sleepers()) === "4\n", 60_000);
    nap.killTree();
    assert.deepEqual(await nap.exit, { exitCode: null, signal: "SIGKILL" });
    assert.equal(await run(guest, "ps | grep -c 'sleep 471[1]'"), "0\n");

    // What loses its parent becomes the agent's and is waited for.
    await run(guest, "for i in 1 2 3 4 5 6 7 8; do (sleep 0.1 &) ; done; sleep 0.5");
    const zombies = (): Promise<string> => run(guest, "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l");
    await eventually("all are waited for", async () => (await zombies()) === "0\n");

    const outputs = await Promise.all(Array.from({ length: 200 }, (_, i) => run(guest, `echo ${i}`)));
    assert.deepEqual(
      outputs,
      Array.from({ length: 200 }, (_, i) => `${i}\n`),
    );
    assert.ok(Number(await run(guest, "ls -d /sys/fs/cgroup/smolvm/c*/ | wc -l")) <= 40, "cgroups are left over");

    await guest.powerOff();
    assert.ok((await machine.off()) < 60_000);
    assert.match(machine.console, /smolvm: power off/);
  });
}

test("a boot that can't go on says why on the console and powers off", async (context) => {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-agent-e2e-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const zeros = join(folder, "zeros");
  writeFileSync(zeros, Buffer.alloc(1024 * 1024));
  const failures = [
    [{ kernelArguments: "smolvm.root=/dev/vdz" }, /smolvm: no root device \/dev\/vdz after \d+ ms/],
    [{ disk: zeros }, /smolvm: can't mount \/dev\/vda as ext4: Invalid argument \(errno 22\)/],
    [{ lanes: false }, /smolvm: no channel to the host/],
  ] as const;
  for (const [options, expected] of failures) {
    const machine = await AgentMachine.boot(context, options);
    await machine.off();
    assert.match(machine.console, expected);
    assert.match(machine.console, /smolvm: boot failed/);
  }
});

test("without a root device the machine stays in the initramfs, where commands without a shell run", async (context) => {
  const machine = await AgentMachine.boot(context, { kernelArguments: "" });
  const guest = await machine.connect();
  const names = (await guest.files.readdir("/")).map((entry) => entry.name);
  assert.ok(names.includes("init") && names.includes("lib"), names.join(" "));
  const own = guest.exec({ command: ["/init"] });
  assert.match((await collect(own.stderr)).toString(), /^usage: smolvm-agent/);
  assert.deepEqual(await own.exit, { exitCode: 2, signal: null });
});

test("the image's own init becomes the first process where that is asked for, and the agent still powers off", async (context) => {
  const kernelArguments = "smolvm.root=/dev/vda smolvm.rootfstype=ext4 smolvm.init=image";
  const machine = await AgentMachine.boot(context, { kernelArguments });
  const guest = await machine.connect();
  assert.doesNotMatch(await run(guest, "cat /proc/1/cmdline | tr '\\0' ' '; readlink /proc/1/exe"), /\(deleted\)/);
  assert.notEqual(await run(guest, "echo $PPID"), "1\n");
  assert.equal(await run(guest, "cat /proc/$PPID/oom_score_adj /proc/self/oom_score_adj"), "-1000\n0\n");
  await guest.powerOff();
  await machine.off();
});

test("the guest's own poweroff ends the machine, and the host's pending commands with it", async (context) => {
  const machine = await AgentMachine.boot(context);
  const guest = await machine.connect();
  const pending = guest.exec({ command: "poweroff; sleep 1000" });
  await assert.rejects(pending.exit, CommandExecutionUnavailableError);
  await machine.off();
  assert.match(machine.console, /smolvm: power off/);
});

test("clients that vanish in the middle of everything leave nothing behind and a lane that works", async (context) => {
  const machine = await AgentMachine.boot(context);
  const guest = await machine.connect();
  for (let i = 0; i < 15; i++) {
    const socket = await machine.secondLane();
    const client = await connectGuest(socket, { timeoutMs: 60_000 });
    assert.equal(client.agent.lane, 1);
    client.exec({ command: ["yes"] }); // printing, and nobody reads
    client.exec({ command: ["cat"], stdin: true }).stdin?.write(Buffer.alloc(400_000));
    client.files.createWriteStream("/tmp/half", { atomic: true }).write(Buffer.alloc(400_000));
    await sleep(i % 5);
    socket.destroy();
  }
  const left = (): Promise<string> => run(guest, "ps | grep -E ' (yes|cat)$'");
  await eventually("their commands have ended", async () => !/yes|cat/.test(await left()));
  assert.equal(await run(guest, "ps | grep -E ' (yes|cat)$'; ls -A /tmp"), "");
  assert.ok(Number(await run(guest, "ls /proc/1/fd | wc -l")) < 60);
});

test("the owner's lane keeps the machine alive: with its end the machine powers off", async (context) => {
  const kernelArguments = "smolvm.root=/dev/vda smolvm.rootfstype=ext4 smolvm.owner=1";
  const machine = await AgentMachine.boot(context, { kernelArguments });
  const guest = await machine.connect();
  const other = await connectGuest(await machine.secondLane(), { timeoutMs: 60_000 });
  other.close();
  await sleep(300);
  assert.ok((await guest.ping()) < 30_000);
  machine.lane.destroy();
  assert.ok((await machine.off()) < 60_000);
  assert.match(machine.console, /smolvm: power off/);
});

test("an owner that never comes is not waited for without end; one that has come may stay as long as it likes", async (context) => {
  const kernelArguments = "smolvm.root=/dev/vda smolvm.rootfstype=ext4 smolvm.owner=1 smolvm.ownerwait=2";
  const attended = await AgentMachine.boot(context, { kernelArguments });
  const guest = await attended.connect();
  const alone = await AgentMachine.boot(context, { kernelArguments });
  assert.ok((await alone.off()) < 60_000);
  assert.match(alone.console, /smolvm: the owner has not come\r?\n.*smolvm: power off/s);
  // The first one's time was up before that of the second, which was started later.
  assert.ok((await guest.ping()) < 30_000);
});
