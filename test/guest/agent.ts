import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Duplex } from "node:stream";

import { agentPath, connectGuest, type GuestConnection } from "../../src/guest/index.js";
import { packageRoot } from "../../src/host/package.js";

/** A real agent as an ordinary process of this host, with lanes that are sockets. */
export class TestAgent implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly lanes: readonly Duplex[];

  constructor(program: string, lanes: number, options: readonly string[] = []) {
    const numbers = Array.from({ length: lanes }, (_, index) => index + 3);
    this.process = spawn(program, [...numbers.flatMap((fd) => ["--serve-fd", String(fd)]), ...options], {
      stdio: ["ignore", "ignore", "inherit", ...numbers.map(() => "pipe" as const)],
    });
    this.lanes = numbers.map((fd) => this.process.stdio[fd] as unknown as Duplex);
  }

  connect(lane = 0): Promise<GuestConnection> {
    const stream = this.lanes[lane];
    if (stream === undefined) throw new Error(`no lane ${lane}`);
    return connectGuest(stream, { timeoutMs: 10_000 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const lane of this.lanes) lane.destroy();
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const timer = setTimeout(() => this.process.kill("SIGKILL"), 3000);
    await once(this.process, "exit");
    clearTimeout(timer);
  }
}

export function startAgent(lanes = 1, options?: readonly string[]): TestAgent {
  return new TestAgent(agentPath(process.arch === "arm64" ? "aarch64" : "x86_64"), lanes, options);
}

interface AgentBuild {
  readonly buildSanitizedAgent: () => string;
}

/** The agent built with AddressSanitizer and UndefinedBehaviorSanitizer, which end it at the first thing they find. */
export async function startSanitizedAgent(lanes = 1): Promise<TestAgent> {
  const script = join(packageRoot(), "scripts", "agent.mjs");
  if (!existsSync(script)) throw new Error("the sanitized agent is built from the sources only");
  const { buildSanitizedAgent } = (await import(script)) as AgentBuild;
  return new TestAgent(buildSanitizedAgent(), lanes);
}

export async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}
