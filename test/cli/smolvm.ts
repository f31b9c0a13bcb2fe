import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

import { packageRoot } from "../../src/host/package.js";

/** The compiled command line, beside this compiled test. */
export const BIN = join(packageRoot(), "build", "src", "cli", "bin.js");

export interface Ran {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string | Buffer;
  readonly cwd?: string;
}

/** The variables that a test may depend on are only those that it names. */
export function environment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(SMOLVM_|CI$|NO_COLOR$|FORCE_COLOR$|NODE_)/.test(name),
  );
  return { ...Object.fromEntries(kept.map(([name, value]) => [name, value ?? ""])), ...extra };
}

/** Starts `smolvm` as a process of its own. */
export function startSmolvm(args: readonly string[], { env, cwd }: RunOptions = {}) {
  return spawn(process.execPath, [BIN, ...args], { env: environment(env), cwd, stdio: "pipe" });
}

/** Waits until something is printed to stdout. A program that ends before has failed, and its stderr says why. */
export async function firstOutput(child: ReturnType<typeof startSmolvm>): Promise<void> {
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  await new Promise<void>((resolve, reject) => {
    child.stdout.once("data", () => resolve());
    child.once("close", (status) => reject(new Error(`smolvm ended with ${status ?? "a signal"}: ${stderr}`)));
  });
}

/** Runs `smolvm` to its end. */
export async function smolvm(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const child = startSmolvm(args, options);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  child.stdin.on("error", () => undefined); // a command that ends without reading all of its input
  child.stdin.end(options.stdin ?? "");
  const [status, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  return { status, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString("utf8") };
}

interface Envelope {
  readonly ok: boolean;
  readonly command: string;
  readonly exitCode: number;
  readonly data: unknown;
  readonly error: { code: string; message: string; hint: string | null; details: Record<string, unknown> } | null;
}

/** What `--json` printed: exactly one envelope and nothing else. */
export function envelopeOf({ stdout }: Ran): Envelope {
  return JSON.parse(stdout.toString("utf8")) as Envelope;
}

export type Step =
  | readonly ["expect", string]
  | readonly ["send", string]
  | readonly ["resize", number, number]
  | readonly ["signal", string]
  | readonly ["raw"]
  | readonly ["close"];

export interface PlayedOnTerminal {
  readonly status: number;
  readonly output: string;
  /** Null when the terminal was closed. */
  readonly restored: boolean | null;
  readonly failed: unknown;
}

/** Runs `smolvm` on a real pseudo-terminal and plays a script against it. */
export async function onTerminal(
  args: readonly string[],
  script: readonly Step[],
  { env, columns = 100, rows = 30 }: { env?: Record<string, string>; columns?: number; rows?: number } = {},
): Promise<PlayedOnTerminal> {
  const driver = join(packageRoot(), "test", "fixtures", "terminal.py");
  // The variables are for smolvm alone: python itself is found through the PATH of the test.
  const variables = Object.entries(environment({ TERM: "xterm-256color", ...env })).map(
    ([name, value]) => `${name}=${value}`,
  );
  const program = ["/usr/bin/env", "-i", ...variables, process.execPath, BIN, ...args];
  const child = spawn("python3", [driver, String(columns), String(rows), JSON.stringify(script), ...program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const printed: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => printed.push(chunk));
  await once(child, "close");
  const played = JSON.parse(Buffer.concat(printed).toString("utf8")) as PlayedOnTerminal;
  return { ...played, output: Buffer.from(played.output, "base64").toString("utf8") };
}

/** A folder that is gone when the test has ended. */
export async function temporaryFolder(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-cli-"));
  context.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}
