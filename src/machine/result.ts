/** What came of a command. Frozen. */
export interface RunResult {
  /** Null when a signal ended the command. */
  readonly exitCode: number | null;
  /** Such as "SIGKILL"; null when the command exited by itself. */
  readonly signal: string | null;
  /** Decoded as UTF-8; what is not UTF-8 is there as U+FFFD. The exact bytes are in `stdoutBytes`. */
  readonly stdout: string;
  readonly stderr: string;
  /** `exitCode` is 0. */
  readonly ok: boolean;
  /** `stdout` without white space at both ends. */
  readonly output: string;
  readonly stdoutBytes: Buffer;
  readonly stderrBytes: Buffer;
  /** From the call to the end of the command, in milliseconds. */
  readonly durationMs: number;
}

export function runResult(ended: {
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly stdoutBytes: Buffer;
  readonly stderrBytes: Buffer;
  readonly durationMs: number;
}): RunResult {
  const stdout = ended.stdoutBytes.toString("utf8");
  return Object.freeze({
    exitCode: ended.exitCode,
    signal: ended.signal,
    stdout,
    stderr: ended.stderrBytes.toString("utf8"),
    ok: ended.exitCode === 0,
    output: stdout.trim(),
    stdoutBytes: ended.stdoutBytes,
    stderrBytes: ended.stderrBytes,
    durationMs: ended.durationMs,
  });
}
