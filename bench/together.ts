/**
 * Sixteen processes want one image at once, from a server that counts the bytes it sends. And once more with the process
 * killed, half-way, that was downloading.
 *
 *   node build/bench/together.js [rounds] [MiB]
 */
import { spawn, type ChildProcessByStdio } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";

import { TestServer } from "../test/fixtures/servers/server.js";
import type { Order } from "./children/together.js";
import { MIB } from "./image-files.js";
import { median, printFindings, quietMoment, roundsOr, temporaryFolder } from "./measure.js";

const PROCESSES = 16;
const rounds = roundsOr(5);
const size = Number(process.argv[3] ?? 256) * MIB;
/** In small pieces, so that little of what the server has sent is still on its way when a process is killed. */
const SLOW = { size: 24 * MIB, rate: 2 * MIB };

interface Served {
  readonly kernel: Buffer;
  readonly rootfs: Buffer;
  /** Bytes per second of each connection. */
  readonly rate?: number;
}

const whole: Served = { kernel: randomBytes(8 * MIB), rootfs: randomBytes(size) };
const slow: Served = { kernel: randomBytes(MIB), rootfs: randomBytes(SLOW.size), rate: SLOW.rate };
const totalOf = ({ kernel, rootfs }: Served): number => kernel.length + rootfs.length;
const digestOf = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

type Asker = ChildProcessByStdio<Writable, Readable, null>;

interface Outcome {
  readonly sent: number;
  readonly requests: number;
  /** Milliseconds of the one that had it last. */
  readonly slowest: number;
}

async function askTogether(served: Served, killOne: boolean): Promise<Outcome> {
  using folder = temporaryFolder();
  const cacheDir = join(folder.path, "cache");
  await using server = await TestServer.start((request, reply) =>
    reply.file(
      request.target === "/rootfs" ? served.rootfs : served.kernel,
      served.rate === undefined ? {} : { rate: served.rate },
    ),
  );
  const source = {
    name: "wanted",
    kernelUrl: `${server.origin}/kernel`,
    kernelSha256: digestOf(served.kernel),
    rootfsUrl: `${server.origin}/rootfs`,
    rootfsSha256: digestOf(served.rootfs),
  };
  const order = JSON.stringify({ cacheDir, source } satisfies Order);
  const program = fileURLToPath(new URL("./children/together.js", import.meta.url));
  const askers = Array.from({ length: PROCESSES }, () =>
    spawn(process.execPath, [program, order], { stdio: ["pipe", "pipe", "inherit"] }),
  );
  try {
    await Promise.all(askers.map((asker) => once(asker.stdout, "data")));
    const answers = askers.map((asker) => answerOf(asker));
    for (const asker of askers) asker.stdin.write("go\n");
    let killed: Asker | undefined;
    if (killOne) {
      while (server.sent < totalOf(served) / 2) await new Promise((resolve) => setTimeout(resolve, 5));
      killed = askers.find(({ pid }) => pid !== undefined && holdsConnection(pid, server.port));
      if (killed === undefined) throw new Error("no process is downloading");
      killed.kill("SIGKILL");
    }
    const times = (await Promise.all(answers)).filter((_, index) => askers[index] !== killed);
    if (times.includes(null)) throw new Error("a process has failed");
    return {
      sent: server.sent,
      requests: server.requests.length,
      slowest: Math.max(...times.map((time) => time ?? 0)),
    };
  } finally {
    for (const asker of askers) asker.kill("SIGKILL");
  }
}

/** What a process printed in the end: its milliseconds, or null if it failed. */
async function answerOf(asker: Asker): Promise<number | null> {
  let printed = "";
  asker.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const [status] = (await once(asker, "close")) as [number | null];
  return status === 0 ? Number(printed) : null;
}

/** Whether a process has a socket that is connected to this port of the loopback. */
function holdsConnection(pid: number, port: number): boolean {
  const wanted = `0100007F:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const connected = readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[2] === wanted && fields[3] === "01")
    .map((fields) => `socket:[${fields[9] ?? ""}]`);
  return openFiles(pid).some((file) => connected.includes(file));
}

function openFiles(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
}

const plain: Outcome[] = [];
const killed: Outcome[] = [];
for (let round = 0; round < rounds; round++) {
  await quietMoment();
  plain.push(await askTogether(whole, false));
  killed.push(await askTogether(slow, true));
}
const total = totalOf(whole);
const sent = (outcomes: readonly Outcome[]): number => Math.max(...outcomes.map((outcome) => outcome.sent));
printFindings(`${PROCESSES} processes ask for one image of ${total / MIB} MiB at once, ${rounds} rounds`, [
  { what: "bytes sent, to those of one download, worst round", measured: sent(plain) / total, unit: " ×", most: 1 },
  { what: "requests, worst round", measured: Math.max(...plain.map(({ requests }) => requests)), unit: "" },
  { what: "until the last one has it", measured: median(plain.map(({ slowest }) => slowest)), unit: " ms" },
  {
    what: "sent twice when the downloading one is killed half-way (25 MiB), worst round",
    measured: (sent(killed) - totalOf(slow)) / MIB,
    unit: " MiB",
    most: 1,
  },
]);
