import { constants } from "node:os";
import type { Readable, Writable } from "node:stream";

import type { GuestProcess } from "../machine/index.js";
import { rawTerminal, terminalSize } from "./raw-terminal.js";

/** How a command in the guest is joined to the terminal, or the pipes, that smolvm was started with. */
export interface Joint {
  readonly stdin: boolean;
  readonly tty: boolean;
}

export interface Ended {
  /** What a shell would give: 128 + n for signal n. */
  readonly status: number;
  readonly signal: string | null;
}

/** Joins a running command to this process until it ends. Output goes out as it comes, byte for byte. */
export async function attach(command: GuestProcess, { stdin, tty }: Joint): Promise<Ended> {
  using _raw = tty && stdin && process.stdin.isTTY ? rawTerminal() : null;
  using _input = stdin && command.stdin !== null ? feed(command.stdin) : null;
  const onResize = (): void => command.resize(terminalSize());
  if (tty) process.on("SIGWINCH", onResize);
  try {
    const output = Promise.all([pump(command.stdout, process.stdout), pump(command.stderr, process.stderr)]);
    const status = await command.wait();
    await output;
    return ended(status);
  } finally {
    process.off("SIGWINCH", onResize);
  }
}

/** Keeps the output for the envelope; what is not UTF-8 is kept in base64 as well. */
export async function collect(command: GuestProcess, { stdin }: Pick<Joint, "stdin">) {
  using _input = stdin && command.stdin !== null ? feed(command.stdin) : null;
  const output = Promise.all([all(command.stdout), all(command.stderr)]);
  const end = ended(await command.wait());
  const [stdout, stderr] = await output;
  return {
    end,
    data: { exitCode: end.status, signal: end.signal, ...text("stdout", stdout), ...text("stderr", stderr) },
  };
}

function ended({ exitCode, signal }: { readonly exitCode: number | null; readonly signal: string | null }): Ended {
  const number = signal === null ? undefined : (constants.signals as Partial<Record<string, number>>)[signal];
  return { status: exitCode ?? 128 + (number ?? 0), signal };
}

/** Ends when all is written out. A stream that breaks off is no news here: `wait()` says why. */
async function pump(from: Readable, to: Writable): Promise<void> {
  for await (const chunk of untilBroken(from)) {
    if (!to.write(chunk)) await new Promise((resolve) => to.once("drain", resolve).once("close", resolve));
  }
  // Written when everything before it is: the program may end right after.
  await new Promise<void>((resolve) => to.write("", () => resolve()));
}

async function all(from: Readable): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of untilBroken(from)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function* untilBroken(from: Readable): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of from as AsyncIterable<Buffer>) yield chunk;
  } catch {
    // The same failure comes out of the command's `wait()`.
  }
}

function text(name: "stdout" | "stderr", bytes: Buffer): Record<string, string> {
  const decoded = bytes.toString("utf8");
  if (Buffer.from(decoded, "utf8").equals(bytes)) return { [name]: decoded };
  return { [name]: decoded, [`${name}Base64`]: bytes.toString("base64") };
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
