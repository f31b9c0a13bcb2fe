import { constants } from "node:os";
import type { Readable, Writable } from "node:stream";

import type { GuestProcess } from "../machine/index.js";
import { pump } from "./output.js";
import { rawTerminal, terminalSize } from "./raw-terminal.js";

/** How a command in the guest is joined to the terminal, or the pipes, that smolvm was started with. */
export interface Joint {
  readonly stdin: boolean;
  readonly tty: boolean;
}

/** Joins a running command to this process until it ends, and gives its status. Output goes out as it comes, byte for byte. */
export async function attach(command: GuestProcess, { stdin, tty }: Joint): Promise<number> {
  using _raw = tty && stdin && process.stdin.isTTY ? rawTerminal() : null;
  using _input = stdin && command.stdin !== null ? feed(command.stdin) : null;
  const onResize = (): void => command.resize(terminalSize());
  if (tty) process.on("SIGWINCH", onResize);
  try {
    const output = Promise.all([
      pump(untilBroken(command.stdout), process.stdout),
      pump(untilBroken(command.stderr), process.stderr),
    ]);
    const status = await command.wait();
    await output;
    return statusOf(status);
  } finally {
    process.off("SIGWINCH", onResize);
  }
}

/** As a shell gives it: 128 + n when signal n ended the command. */
export function statusOf({
  exitCode,
  signal,
}: {
  readonly exitCode: number | null;
  readonly signal: string | null;
}): number {
  const number = signal === null ? undefined : (constants.signals as Partial<Record<string, number>>)[signal];
  return exitCode ?? 128 + (number ?? 0);
}

/** A stream that breaks off is no news here. */
async function* untilBroken(from: Readable): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of from as AsyncIterable<Buffer>) yield chunk;
  } catch {
    // The same failure comes out of the command's `wait()`.
  }
}

/** Sends what is typed, or piped in, to the command. A command that stops reading does not concern who writes. */
function feed(to: Writable): Disposable {
  const from = process.stdin;
  to.on("error", () => from.unpipe(to));
  from.pipe(to);
  return {
    [Symbol.dispose]() {
      from.unpipe(to);
      from.pause();
    },
  };
}
