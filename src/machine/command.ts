import { Readable, type Writable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { OperationTimeoutError, SmolVMError } from "../errors.js";
import type { ExitStatus, GuestProcess as Remote, TerminalSize } from "../guest/index.js";
import { assertEnvVars } from "./environment.js";
import { assertKnownFields, invalid } from "./config.js";
import { runResult, type RunResult } from "./result.js";

export interface SpawnOptions {
  /** On top of the machine's environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Default: the user's home. */
  readonly cwd?: string | undefined;
  /** "name", "uid", "name:group" or "uid:gid" in the guest. Default: root. */
  readonly user?: string | undefined;
  /** After so many milliseconds everything that the command started is killed. Default: never. */
  readonly timeoutMs?: number | undefined;
  /** Aborting it kills everything that the command started. */
  readonly signal?: AbortSignal | undefined;
  /** A controlling terminal; true is one of 80 by 24. stdout and stderr are then one stream, `stdout`. */
  readonly tty?: boolean | TerminalSize | undefined;
  /** False gives the command an empty stdin at once. Default true: it reads what is written to `stdin`. */
  readonly stdin?: boolean | undefined;
}

export interface RunOptions extends Omit<SpawnOptions, "tty" | "stdin"> {
  /** What the command reads. Default: nothing. */
  readonly stdin?: string | Uint8Array | Readable | undefined;
  /** Called with each piece of output as it comes. */
  readonly onStdout?: ((chunk: Buffer) => void) | undefined;
  readonly onStderr?: ((chunk: Buffer) => void) | undefined;
}

const SPAWN_FIELDS = ["env", "cwd", "user", "timeoutMs", "signal", "tty", "stdin"];
const RUN_FIELDS = ["env", "cwd", "user", "timeoutMs", "signal", "stdin", "onStdout", "onStderr"];

/** More output than this can't be kept as one string; a command that has more to say is for `spawn`. */
const OUTPUT_LIMIT = 256 * 1024 * 1024;
/** How long killed processes may take to be gone. */
const KILL_GRACE_MS = 2000;

/** A command that runs in the guest. */
export interface GuestProcess {
  /** The pid in the guest, once it runs. */
  readonly pid: Promise<number>;
  /** Null when `stdin: false` was given. */
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  /** Ends at once when the command has a terminal. */
  readonly stderr: Readable;
  /**
   * How the command ended. Read the streams: a command whose output nobody takes waits. On time-out and abort the streams end
   * with that error too.
   *
   * @throws OperationTimeoutError, the signal's reason, CommandExecutionUnavailableError when the machine died.
   */
  wait(): Promise<ExitStatus>;
  /** Sends a signal to the command and all of its process group. Default "SIGTERM". */
  kill(signal?: NodeJS.Signals): void;
  /** Tells the command's terminal its new size. */
  resize(size: TerminalSize): void;
}

/** How commands reach the machine. */
export interface CommandHost {
  exec(request: {
    readonly command: string | readonly string[];
    readonly env: Readonly<Record<string, string>> | undefined;
    readonly cwd: string | undefined;
    readonly user: string | undefined;
    readonly tty: TerminalSize | undefined;
    readonly stdin: boolean;
  }): Remote;
  /** Keeps the program alive until disposed of. */
  hold(): Disposable;
  /** The error to show for one of the connection: a dead machine's says why it died. */
  explain(error: unknown): Promise<unknown>;
}

/** @throws ValidationError for bad arguments; the rest comes out of `wait()`. */
export function spawnCommand(host: CommandHost, command: unknown, options: SpawnOptions): GuestProcess {
  assertKnownFields("spawn", options, SPAWN_FIELDS);
  const tty = terminal(options.tty);
  return supervise(host, "spawn", checkCommand(command), options, { tty, stdin: options.stdin ?? true }).process;
}

/** Runs a command to its end and collects what it printed. */
export async function runCommand(host: CommandHost, command: unknown, options: RunOptions): Promise<RunResult> {
  assertKnownFields("run", options, RUN_FIELDS);
  const { stdin, onStdout, onStderr } = options;
  if (stdin !== undefined && typeof stdin !== "string" && !(stdin instanceof Uint8Array) && !isReadable(stdin)) {
    throw invalid("stdin", stdin, "a string, bytes or a readable stream");
  }
  const started = performance.now();
  const { process, abandon } = supervise(host, "run", checkCommand(command), options, { stdin: stdin !== undefined });
  if (stdin !== undefined && process.stdin !== null) feed(stdin, process.stdin).catch(abandon);
  const stdout = collect(process.stdout, onStdout, abandon);
  const stderr = collect(process.stderr, onStderr, abandon);
  const { exitCode, signal } = await process.wait().catch((error: unknown) => {
    const late = error instanceof OperationTimeoutError ? withOutput(error, stdout.bytes(), stderr.bytes()) : error;
    // A guest that doesn't confirm the command's end keeps it known here: what it printed must not stay with it.
    stdout.discard();
    stderr.discard();
    throw late;
  });
  await Promise.all([stdout.ended, stderr.ended]);
  return runResult({
    exitCode,
    signal,
    stdoutBytes: stdout.bytes(),
    stderrBytes: stderr.bytes(),
    durationMs: performance.now() - started,
  });
}

function outOfTime(operation: string, timeoutMs: number, command: unknown): OperationTimeoutError {
  return new OperationTimeoutError(operation, timeoutMs, {
    hint: "All that it started was killed. Give it more time with timeoutMs.",
    details: { command },
  });
}

/** What a command printed before its time was up is often what its caller wants to see most. */
function withOutput(error: OperationTimeoutError, stdout: Buffer, stderr: Buffer): OperationTimeoutError {
  return new OperationTimeoutError(error.operation, error.timeoutMs, {
    hint: error.hint,
    details: { ...error.details, stdout: stdout.toString(), stderr: stderr.toString() },
    cause: error,
  });
}

interface Supervised {
  readonly process: GuestProcess;
  /** Kills everything that the command started, and makes `wait()` reject with this. */
  readonly abandon: (reason: unknown) => void;
}

function supervise(
  host: CommandHost,
  operation: string,
  command: string | readonly string[],
  options: Omit<SpawnOptions, "tty" | "stdin">,
  { tty, stdin }: { readonly tty?: TerminalSize | undefined; readonly stdin: boolean },
): Supervised {
  const { env, cwd, user, timeoutMs, signal } = options;
  if (env !== undefined) assertEnvVars("env", env);
  if (cwd !== undefined && (typeof cwd !== "string" || cwd === "" || cwd.includes("\0")))
    throw invalid("cwd", cwd, "a path");
  if (user !== undefined && (typeof user !== "string" || user === ""))
    throw invalid("user", user, "a user of the guest");
  if (timeoutMs !== undefined && !(typeof timeoutMs === "number" && timeoutMs > 0 && timeoutMs <= 0x7fffffff)) {
    throw invalid("timeoutMs", timeoutMs, "milliseconds, more than 0 and at most 2147483647");
  }
  signal?.throwIfAborted();

  const remote = host.exec({ command, env, cwd, user, tty, stdin });
  const held = host.hold();
  let abandoned: { readonly reason: unknown } | null = null;
  let giveUp: (reason: unknown) => void = () => undefined;
  const gaveUp = new Promise<never>((_, reject) => (giveUp = reject));
  gaveUp.catch(() => undefined); // `wait()` hands it on
  const abandon = (reason: unknown): void => {
    if (abandoned !== null) return;
    abandoned = { reason };
    stopWatching();
    remote.killTree();
    // The promise to have killed everything is kept before the failure is told, unless the guest itself hangs.
    const grace = setTimeout(() => {
      for (const stream of [remote.stdin, remote.stdout, remote.stderr]) stream?.destroy();
      held[Symbol.dispose]();
      giveUp(reason);
    }, KILL_GRACE_MS);
    const told = (): void => {
      clearTimeout(grace);
      giveUp(reason);
    };
    remote.exit.then(told, told);
    // Who reads a stream must not take what came until now for all of it.
    const failure = reason instanceof Error ? reason : new Error("the command was given up", { cause: reason });
    remote.stdout.destroy(failure);
    remote.stderr.destroy(failure);
  };
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => abandon(outOfTime(operation, timeoutMs, command)), timeoutMs);
  const aborted = (): void => abandon(signal?.reason);
  const stopWatching = (): void => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", aborted);
  };
  signal?.addEventListener("abort", aborted, { once: true });

  const ended = remote.exit
    .then(
      (status) => {
        if (abandoned !== null) throw abandoned.reason;
        return status;
      },
      async (error: unknown) => {
        throw abandoned === null ? await host.explain(error) : abandoned.reason;
      },
    )
    .finally(() => {
      stopWatching();
      held[Symbol.dispose]();
    });
  const outcome = Promise.race([ended, gaveUp]);
  outcome.catch(() => undefined); // a caller that never waits is not interested in how it ended
  return {
    abandon,
    process: {
      pid: remote.started,
      stdin: remote.stdin,
      stdout: remote.stdout,
      stderr: remote.stderr,
      wait: () => outcome,
      kill: (by) => remote.kill(by),
      resize: (size) => remote.resize(size),
    },
  };
}

function checkCommand(command: unknown): string | readonly string[] {
  const isText = (value: unknown): value is string => typeof value === "string" && !value.includes("\0");
  if (isText(command) && command !== "") return command;
  if (Array.isArray(command) && command.length > 0 && command.every(isText) && command[0] !== "") return command;
  throw invalid("command", command, "a line for the shell, or a list of a program and its arguments, without NUL");
}

function terminal(tty: SpawnOptions["tty"]): TerminalSize | undefined {
  if (tty === undefined || tty === false) return undefined;
  if (tty === true) return { cols: 80, rows: 24 };
  const { cols, rows } = tty;
  const fits = (size: unknown): boolean => Number.isInteger(size) && Number(size) > 0 && Number(size) < 65536;
  if (!fits(cols) || !fits(rows)) throw invalid("tty", tty, "true, or { cols, rows } of 1 to 65535");
  return { cols, rows };
}

function isReadable(value: unknown): value is Readable {
  return value instanceof Readable || (typeof value === "object" && value !== null && "pipe" in value);
}

/** A command that stops reading early is no failure; a source that fails is. */
async function feed(source: string | Uint8Array | Readable, to: Writable): Promise<void> {
  if (!isReadable(source)) {
    to.on("error", () => undefined);
    to.end(source);
    return;
  }
  let sourceError: Error | undefined;
  source.once("error", (error) => (sourceError = error));
  try {
    await pipeline(source, to);
  } catch (error) {
    if (sourceError !== undefined) throw error;
  }
}

function collect(from: Readable, onChunk: ((chunk: Buffer) => void) | undefined, abandon: (reason: unknown) => void) {
  const chunks: Buffer[] = [];
  let size = 0;
  const take = (chunk: Buffer): void => {
    size += chunk.length;
    if (size > OUTPUT_LIMIT) {
      abandon(
        new SmolVMError("OUTPUT_TOO_LARGE", `The command printed more than ${OUTPUT_LIMIT} bytes.`, {
          hint: "Use spawn() and read its streams.",
        }),
      );
      return;
    }
    chunks.push(chunk);
    try {
      onChunk?.(chunk);
    } catch (error) {
      abandon(error);
    }
  };
  from.on("data", take);
  const ended = new Promise<void>((resolve) => {
    // However it ends: whether the command ended well is what `wait()` tells.
    from.once("close", resolve);
    from.on("error", () => resolve());
  });
  const discard = (): void => {
    from.off("data", take);
    chunks.length = 0;
  };
  return { ended, bytes: () => Buffer.concat(chunks), discard };
}
