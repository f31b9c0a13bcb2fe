import { isUtf8 } from "node:buffer";

import { OperationTimeoutError } from "../errors.js";
import type { SmolVM } from "../machine/index.js";
import { attach, statusOf } from "./attach.js";
import type { Input, Invocation, OptionDescriptions, Outcome } from "./command.js";
import { UsageError } from "./failure.js";
import { terminalSize } from "./raw-terminal.js";
import { environment, milliseconds } from "./values.js";

/** What `run`, `exec` and `shell` let one say about the command. */
export const COMMAND_OPTIONS = {
  interactive: { short: "i", summary: "Pass stdin on to the command" },
  tty: { short: "t", summary: "Give the command a terminal; keys, Ctrl-C too, go to it (implies -i on a terminal)" },
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
  { json, signal }: Invocation,
): Promise<Outcome> {
  const [line = ""] = words;
  const command = words.length === 1 ? line : words;
  try {
    if (json) return await collected(vm, command, options, signal);
    const { stdin, tty, spawn } = options;
    const size = tty ? { tty: terminalSize() } : {};
    const exitCode = await attach(vm.spawn(command, { ...spawn, ...size, stdin, signal }), { stdin, tty });
    return { exitCode };
  } catch (error) {
    if (!(error instanceof OperationTimeoutError)) throw error;
    // The library names the call that it was; here it is the command that somebody typed.
    throw new OperationTimeoutError("The command", error.timeoutMs, { cause: error });
  }
}

/** Keeps the output for the envelope. */
async function collected(
  vm: SmolVM,
  command: string | readonly string[],
  { stdin, spawn }: CommandOptions,
  signal: AbortSignal,
): Promise<Outcome> {
  const result = await vm.run(command, { ...spawn, signal, ...(stdin ? { stdin: process.stdin } : {}) });
  const exitCode = statusOf(result);
  const output = { ...asText("stdout", result.stdoutBytes), ...asText("stderr", result.stderrBytes) };
  return { exitCode, data: { exitCode, signal: result.signal, ...output } };
}

/** What is not UTF-8 is there in base64 as well. */
function asText(name: "stdout" | "stderr", bytes: Buffer): Record<string, string> {
  const text = bytes.toString("utf8");
  return { [name]: text, ...(isUtf8(bytes) ? {} : { [`${name}Base64`]: bytes.toString("base64") }) };
}
