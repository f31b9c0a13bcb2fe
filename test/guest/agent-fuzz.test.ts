import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { encodeHeader, FrameType, HEADER_SIZE, MAX_PAYLOAD } from "../../src/guest/frames.js";
import { agentPath } from "../../src/guest/index.js";
import { buildSanitizedAgent, collect, HOST_ARCH, startAgent, TestAgent } from "./agent.js";
import { conversation, LAST_ANSWER } from "./conversation.js";
import { Dice, FUZZ_MS } from "./fuzz.js";

/** ASan needs /proc to look for leaks, which a cage has not: the test without a cage looks for them. */
const SANITIZER_OPTIONS = {
  ASAN_OPTIONS: "detect_leaks=0:abort_on_error=1:handle_abort=0",
  UBSAN_OPTIONS: "print_stacktrace=1",
};

/** A folder with one program in it: nothing that the fuzzer asks for can reach outside. */
async function makeCage(): Promise<string> {
  const cage = await mkdtemp(join(tmpdir(), "smolvm-agent-fuzz-"));
  for (const name of ["bin", "etc", "tmp", "full"]) await mkdir(join(cage, name));
  await copyFile(agentPath(HOST_ARCH), join(cage, "bin", "sh"));
  await chmod(join(cage, "bin", "sh"), 0o755);
  await writeFile(
    join(cage, "etc", "passwd"),
    "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\nbad:x:x\n::::::\n",
  );
  await writeFile(join(cage, "etc", "group"), "root:x:0:\nuser:x:1000:root,user\nbad\n");
  await writeFile(join(cage, "tmp", "large"), Buffer.alloc(1_000_000, 1));
  for (let i = 0; i < 3000; i++) await writeFile(join(cage, "full", `${i}-${"x".repeat(i % 200)}`), "");
  return cage;
}

function hello(nonce: Buffer): Buffer {
  const versions = Buffer.alloc(16);
  versions.writeUInt32LE(1, 0);
  versions.writeUInt32LE(1, 4);
  return Buffer.concat([Buffer.from("smolvm-hello\r\n\xff\0", "latin1"), nonce, versions]);
}

/** Whatever state the lane is in: after a frame's worth of padding a hello is understood, and answered within the time. */
async function greet(agent: TestAgent, lane: Duplex, nonce: Buffer): Promise<"answered" | "ended"> {
  let seen: Buffer = Buffer.alloc(0);
  lane.write(Buffer.concat([Buffer.alloc(HEADER_SIZE + MAX_PAYLOAD), hello(nonce)]));
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => settle(() => reject(new Error("the agent hangs"))), 60_000);
    const onData = (chunk: Buffer): void => {
      seen = Buffer.concat([seen.subarray(-64), chunk]);
      if (seen.includes(nonce)) settle(() => resolve("answered"));
    };
    const onExit = (): void => settle(() => resolve("ended"));
    const settle = (outcome: () => void): void => {
      clearTimeout(late);
      lane.off("data", onData);
      agent.process.off("exit", onExit);
      outcome();
    };
    lane.on("data", onData);
    agent.process.on("exit", onExit);
    if (agent.process.exitCode !== null || agent.process.signalCode !== null) onExit();
  });
}

/** Once new clients have taken the places of all before, no descriptor and no child of theirs is left. */
async function holdsNothing(agent: TestAgent, dice: Dice): Promise<void> {
  for (const lane of agent.lanes) {
    if ((await greet(agent, lane, dice.bytes(16))) === "ended") return;
  }
  const proc = `/proc/${agent.process.pid ?? 0}`;
  let left = "";
  for (let tries = 0; tries < 1500; tries++) {
    const descriptors = (await readdir(`${proc}/fd`)).length;
    const children = await readFile(`${proc}/task/${agent.process.pid ?? 0}/children`, "utf8");
    left = `${descriptors} descriptors, children: ${children}`;
    if (descriptors < 16 && children.trim() === "") return;
    await sleep(20);
  }
  assert.fail(`${left} are left (seed ${dice.seed})`);
}

async function eitherOf(...events: readonly (readonly [emitter: EventEmitter, name: string])[]): Promise<void> {
  const done = new AbortController();
  const waits = events.map(([emitter, name]) => once(emitter, name, { signal: done.signal }));
  for (const wait of waits) wait.catch(() => undefined); // the ones that lose are called off
  await Promise.race(waits);
  done.abort();
}

test("the agent under sanitizers survives mutated frames and answers the next client", async (t) => {
  const dice = new Dice();
  t.diagnostic(`seed ${dice.seed} (repeat with SMOLVM_FUZZ_SEED)`);
  const program = await buildSanitizedAgent();
  const cage = await makeCage();
  const deadline = Date.now() + FUZZ_MS;
  let frames = 0;
  let clients = 0;
  let agents = 0;
  let understood = 0;
  try {
    while (Date.now() < deadline) {
      agents++;
      await using agent = new TestAgent(program, 2, ["--chroot", cage], SANITIZER_OPTIONS);
      for (const lane of agent.lanes) {
        lane.on("error", () => undefined); // it may end in the middle of a write
        lane.on("data", (chunk: Buffer) => (understood += Number(chunk.includes(LAST_ANSWER))));
      }
      for (let round = 0; round < 300 && Date.now() < deadline; round++) {
        const lane = dice.pick(agent.lanes);
        clients++;
        if ((await greet(agent, lane, dice.bytes(16))) === "ended") break;
        const pieces = conversation(dice, 400);
        frames += pieces.length;
        if (!lane.write(Buffer.concat(pieces))) await eitherOf([lane, "drain"], [agent.process, "exit"]);
      }
      await holdsNothing(agent, dice);
      for (const lane of agent.lanes) lane.destroy();
      const { code, signal } = await agent.exited();
      assert.deepEqual([code, signal], [0, null], `seed ${dice.seed}`); // also when a frame asked for power-off
    }
  } finally {
    await rm(cage, { recursive: true, force: true });
  }
  t.diagnostic(`${frames} frames from ${clients} clients (${understood} understood to the end) to ${agents} agents`);
  assert.ok(frames > 1000);
});

test("the agent under sanitizers does ordinary work without an error or a leak", async () => {
  const agent = new TestAgent(await buildSanitizedAgent(), 2, [], { ASAN_OPTIONS: "detect_leaks=1" });
  const folder = await mkdtemp(join(tmpdir(), "smolvm-agent-sanitized-"));
  try {
    const guest = await agent.connect();
    await guest.setEnv({ A: "1" });
    for (let i = 0; i < 20; i++) {
      const command = guest.exec({
        command: "cat; echo $A >&2",
        stdin: true,
        ...(i % 4 === 0 ? { tty: { cols: 80, rows: 24 } } : {}),
      });
      command.stdin?.end(`${"x".repeat(150 * i)}\n`);
      await Promise.all([collect(command.stdout), collect(command.stderr), command.exit]);
    }
    const file = join(folder, "file");
    await guest.files.writeFile(file, Buffer.alloc(2_000_000));
    await guest.files.writeFile(file, Buffer.alloc(500_000), { atomic: true, sync: true });
    assert.equal((await guest.files.readFile(file)).length, 500_000);
    await guest.files.readdir("/etc");
    await guest.files.rm(folder, { recursive: true });
    await guest.sync();
    const left = guest.exec({ command: "sleep 60 & sleep 60", stdin: true });
    await left.started;
    left.killTree();
    await left.exit;
    guest.close();
    for (const lane of agent.lanes) lane.destroy();
    assert.deepEqual(await agent.exited(), { code: 0, signal: null });
  } finally {
    await agent[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  }
});

test("a client that vanishes in the middle of a frame leaves a lane that the next one can use", async () => {
  await using agent = startAgent(1);
  const [lane] = agent.lanes;
  assert.ok(lane);
  const first = await agent.connect();
  const pid = await first.exec({ command: "sleep 60", stdin: true }).started;
  // The same socket goes on with another client, as a virtio port does whose closing went unnoticed.
  lane.removeAllListeners();
  lane.write(Buffer.concat([encodeHeader(FrameType.data, 1, 0, 50_000), Buffer.alloc(100)]));
  const second = await agent.connect();
  let state = "";
  for (let tries = 0; tries < 1000 && state !== "gone\n"; tries++) {
    const command = second.exec({ command: `kill -0 ${pid} 2>/dev/null && echo alive || echo gone` });
    state = (await collect(command.stdout)).toString();
    if (state !== "gone\n") await sleep(20);
  }
  assert.equal(state, "gone\n", "what the first one started has ended");
});
