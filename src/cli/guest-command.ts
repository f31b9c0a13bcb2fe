import { isUtf8 } from "node:buffer";

import { OperationTimeoutError } from "../errors.js";
import type { SmolVM } from "../machine/index.js";
import { attach, statusOf } from "./attach.js";
import type { Input, Invocation, OptionDescriptions, Outcome } from "./command.js";
import { describeFailure, printFailure, STATUS, UsageError } from "./failure.js";
import { terminalSize } from "./raw-terminal.js";
import { environment, milliseconds } from "./values.js";

/** What `run`, `exec` and `shell` let one say about the command. */
export const COMMAND_OPTIONS = {
  interactive: { short: "i", summary: "Pass stdin on to the command" },
  tty: {
    short: "t",
    summary: "Give the command a terminal; keys, Ctrl-C too, go to it. Implies -i where stdin is a terminal",
  },
  timeout: { value: "TIME", summary: "End the command after so long: 30 (seconds), 500ms, 5m, 1h. Exit status 124" },
  workdir: { value: "PATH", short: "w", summary: "Folder in the machine to run in" },
  user: { value: "NAME", short: "u", summary: "User in the machine to run as (default: root)" },
} as const satisfies OptionDescriptions;

type CommandInput = Input<typeof COMMAND_OPTIONS>["options"];

export interface CommandOptions {
  readonly stdin: boolean;
  readonly tty: boolean;
  readonly spawn: {
    readonly env?: Record<string, string>;
    readonly cwd?: string;
    readonly user?: string;
    readonly timeoutMs?: number;
  };
}

export function readCommandOptions(
  options: CommandInput,
  env: readonly string[],
  { json }: Invocation,
): CommandOptions {
  const timeoutMs = milliseconds("--timeout", options.timeout);
  if (json && options.tty) throw new UsageError("--tty and --json do not go together.");
  // Without -i nothing is read, and a terminal only for the output, as for colours, makes sense from anywhere.
  if (options.tty && options.interactive && !process.stdin.isTTY) {
    throw new UsageError("--tty with --interactive needs a terminal, and stdin is none.", {
      hint: "Leave --tty out to pass on what stdin has, or --interactive for a terminal that nobody types on.",
    });
  }
  return {
    tty: options.tty,
    stdin: options.interactive || (options.tty && process.stdin.isTTY),
    spawn: {
      env: environment(env),
      ...(options.workdir === undefined ? {} : { cwd: options.workdir }),
      ...(options.user === undefined ? {} : { user: options.user }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    },
  };
}

/** Runs a command in a machine, joined to this process. A single word goes to the guest's shell, as with ssh. */
export async function runInGuest(
  vm: SmolVM,
  words: readonly string[],
  options: CommandOptions,
  invocation: Invocation,
): Promise<Outcome> {
  const [line = ""] = words;
  const command = words.length === 1 ? line : words;
  if (invocation.json) return collected(vm, command, options, invocation);
  try {
    const { stdin, tty, spawn } = options;
    const size = tty ? { tty: terminalSize() } : {};
    const running = vm.spawn(command, { ...spawn, ...size, stdin, signal: invocation.signal });
    return { exitCode: await attach(running, { stdin, tty }) };
  } catch (error) {
    throw asTyped(error);
  }
}

/** The library names the call whose time was up; here it is the command that somebody typed. */
function asTyped(error: unknown): unknown {
  if (!(error instanceof OperationTimeoutError)) return error;
  return new OperationTimeoutError("The command", error.timeoutMs, { cause: error });
}

/** Keeps the output for the envelope. What a command had printed when its time was up is in it as well. */
async function collected(
  vm: SmolVM,
  command: string | readonly string[],
  { stdin, spawn }: CommandOptions,
  { debug, signal }: Invocation,
): Promise<Outcome> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  try {
    const { exitCode: code, signal: by } = await vm.run(command, {
      ...spawn,
      ...(stdin ? { stdin: process.stdin } : {}),
      signal,
      onStdout: (chunk) => stdout.push(chunk),
      onStderr: (chunk) => stderr.push(chunk),
    });
    const exitCode = statusOf({ exitCode: code, signal: by });
    return { exitCode, data: { exitCode, signal: by, ...asTexts({ stdout, stderr }) } };
  } catch (error) {
    if (!(error instanceof OperationTimeoutError)) throw error;
    const failure = describeFailure(asTyped(error), STATUS.smolvmFailed);
    printFailure(failure, debug ? error : undefined);
    const data = { exitCode: null, signal: null, ...asTexts({ stdout, stderr }) };
    return { exitCode: failure.exitCode, data, error: failure };
  }
}

interface Printed {
  readonly stdout: readonly Buffer[];
  readonly stderr: readonly Buffer[];
}

function asTexts({ stdout, stderr }: Printed): Record<string, string> {
  return { ...asText("stdout", Buffer.concat(stdout)), ...asText("stderr", Buffer.concat(stderr)) };
}

/** What is not UTF-8 is there in base64 as well. */
function asText(name: "stdout" | "stderr", bytes: Buffer): Record<string, string> {
  const text = bytes.toString("utf8");
  return { [name]: text, ...(isUtf8(bytes) ? {} : { [`${name}Base64`]: bytes.toString("base64") }) };
}
