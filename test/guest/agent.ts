import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Duplex } from "node:stream";

import { agentPath, connectGuest, type GuestArch, type GuestConnection } from "../../src/guest/index.js";
import { packageRoot } from "../../src/host/package.js";

export const HOST_ARCH: GuestArch = process.arch === "arm64" ? "aarch64" : "x86_64";

export interface AgentExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A real agent as an ordinary process of this host, with lanes that are sockets. */
export class TestAgent implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly lanes: readonly Duplex[];

  constructor(program: string, lanes: number, options: readonly string[] = [], env: NodeJS.ProcessEnv = {}) {
    const numbers = Array.from({ length: lanes }, (_, index) => index + 3);
    this.process = spawn(program, [...numbers.flatMap((fd) => ["--serve-fd", String(fd)]), ...options], {
      stdio: ["ignore", "ignore", "inherit", ...numbers.map(() => "pipe" as const)],
      env: { ...process.env, ...env },
    });
    this.lanes = numbers.map((fd) => this.process.stdio[fd] as unknown as Duplex);
  }

  connect(lane = 0): Promise<GuestConnection> {
    const stream = this.lanes[lane];
    if (stream === undefined) throw new Error(`no lane ${lane}`);
    return connectGuest(stream, { timeoutMs: 30_000 });
  }

  async exited(): Promise<AgentExit> {
    if (this.process.exitCode === null && this.process.signalCode === null) await once(this.process, "exit");
    return { code: this.process.exitCode, signal: this.process.signalCode };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const lane of this.lanes) lane.destroy();
    const timer = setTimeout(() => this.process.kill("SIGKILL"), 20_000);
    await this.exited();
    clearTimeout(timer);
  }
}

export function startAgent(lanes = 1, options?: readonly string[]): TestAgent {
  return new TestAgent(agentPath(HOST_ARCH), lanes, options);
}

interface AgentBuild {
  readonly buildSanitizedAgent: () => string;
}

/** The agent with AddressSanitizer and UndefinedBehaviorSanitizer, which end it at the first thing they find. Gives its path. */
export async function buildSanitizedAgent(): Promise<string> {
  const build = (await import(join(packageRoot(), "scripts", "agent.mjs"))) as AgentBuild;
  return build.buildSanitizedAgent();
}

export async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}
