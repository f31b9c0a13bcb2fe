import type { Readable, Writable } from "node:stream";

import { CommandExecutionUnavailableError, GuestFileError, ValidationError } from "../errors.js";
import { printableNote } from "../printable.js";
import { encodeEnvironment } from "./configuration.js";
import type { Channel, Link } from "./connection.js";
import { FRAME_COST, FrameType, violation } from "./frames.js";
import { errnoMeaning, errnoName, signalName, signalNumber } from "./names.js";
import { PayloadReader, PayloadWriter } from "./payload.js";
import { InputStream, OUTPUT_WINDOW, OutputStream } from "./streams.js";
import type { ExecRequest, ExitStatus, GuestProcess, TerminalSize } from "./types.js";

const STDOUT = 1;
const STDERR = 2;

export class Process implements Channel, GuestProcess {
  readonly started: Promise<number>;
  readonly exit: Promise<ExitStatus>;
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly #link: Link;
  readonly #request: ExecRequest;
  readonly #number: number;
  readonly #input: InputStream | null;
  readonly #outputs: readonly [OutputStream, OutputStream];
  /** Credit that the guest has left, for each output. */
  readonly #credit: [number, number] = [OUTPUT_WINDOW, OUTPUT_WINDOW];
  #running = false;
  #over = false;
  #resolveStarted: (pid: number) => void = () => undefined;
  #rejectStarted: (error: Error) => void = () => undefined;
  #resolveExit: (status: ExitStatus) => void = () => undefined;
  #rejectExit: (error: Error) => void = () => undefined;

  constructor(link: Link, request: ExecRequest) {
    this.#link = link;
    this.#request = request;
    this.started = new Promise((resolve, reject) => {
      this.#resolveStarted = resolve;
      this.#rejectStarted = reject;
    });
    this.exit = new Promise((resolve, reject) => {
      this.#resolveExit = resolve;
      this.#rejectExit = reject;
    });
    // Both carry the same failure and few await both: neither may end the program for not being awaited.
    this.started.catch(() => undefined);
    this.exit.catch(() => undefined);
    const payload = encodeExec(request);
    this.#outputs = [this.#output(STDOUT), this.#output(STDERR)];
    [this.stdout, this.stderr] = this.#outputs;
    this.#input = request.stdin === true || request.tty !== undefined ? this.#inputStream() : null;
    this.stdin = this.#input;
    if (request.tty !== undefined) this.#outputs[1].finish();
    this.#number = link.open(this);
    link.send(FrameType.exec, this.#number, 0, payload);
  }

  kill(signal: NodeJS.Signals = "SIGTERM"): void {
    const number = signalNumber(signal);
    if (number === undefined)
      throw new ValidationError(`signal must be the name of a Linux signal, not ${JSON.stringify(signal)}.`);
    if (!this.#over) this.#link.send(FrameType.signal, this.#number, 0, Buffer.from([number, 0]));
  }

  killTree(): void {
    if (this.#over) return;
    this.#link.send(FrameType.signal, this.#number, 0, Buffer.from([signalNumber("SIGKILL") ?? 9, 1]));
    this.#link.forsake(this.#number);
  }

  resize(size: TerminalSize): void {
    checkSize({ cols: size.cols, rows: size.rows });
    if (this.#over || this.#request.tty === undefined) return;
    this.#link.send(
      FrameType.resize,
      this.#number,
      0,
      new PayloadWriter().u16(size.cols).u16(size.rows).finish("resize"),
    );
  }

  charge(stream: number, length: number): void {
    const index = this.#index(stream);
    this.#credit[index] -= length + FRAME_COST;
    if (this.#credit[index] < 0) throw violation("data without credit");
    this.#outputs[index].owe(FRAME_COST);
  }

  data(stream: number, bytes: Buffer): void {
    this.#outputs[this.#index(stream)].deliver(bytes);
  }

  frame(type: number, stream: number, payload: Buffer): boolean {
    switch (type) {
      case FrameType.started: {
        if (this.#running) throw violation("a second start");
        this.#running = true;
        const reader = new PayloadReader(payload);
        this.#resolveStarted(reader.u32());
        this.#input?.credit(reader.u32());
        return false;
      }
      case FrameType.credit:
        this.#input?.credit(new PayloadReader(payload).u32());
        return false;
      case FrameType.end:
        this.#outputs[this.#index(stream)].finish();
        return false;
      case FrameType.exit: {
        if (!this.#running) throw violation("an end before the start");
        const reader = new PayloadReader(payload);
        const [exitCode, signal] = [reader.u8(), reader.u8()];
        this.#finish({ exitCode: signal === 0 ? exitCode : null, signal: signal === 0 ? null : signalName(signal) });
        return true;
      }
      case FrameType.fail: {
        const reader = new PayloadReader(payload);
        this.#failed(errnoName(reader.u32()), printableNote(reader.string()));
        return true;
      }
      default:
        throw violation("a frame that does not belong to a command");
    }
  }

  lost(error: Error): void {
    this.#over = true;
    this.#input?.destroy(error);
    for (const output of this.#outputs) output.destroy(error);
    this.#rejectStarted(error);
    this.#rejectExit(error);
  }

  #index(stream: number): 0 | 1 {
    if (stream === STDOUT) return 0;
    if (stream === STDERR && this.#request.tty === undefined) return 1;
    throw violation("data on a stream that isn't open");
  }

  #output(stream: number): OutputStream {
    const grant = (cost: number): void => {
      if (this.#over) return;
      this.#credit[stream - 1 === 0 ? 0 : 1] += cost;
      this.#link.send(FrameType.credit, this.#number, stream, new PayloadWriter().u32(cost).finish("credit"));
    };
    const abandon = (): void => {
      if (!this.#over) this.#link.send(FrameType.end, this.#number, stream);
    };
    return new OutputStream(grant, abandon);
  }

  #inputStream(): InputStream {
    const end = (): void => {
      if (!this.#over) this.#link.send(FrameType.end, this.#number, 0);
    };
    return new InputStream(
      {
        send: (bytes, sent) => this.#link.send(FrameType.data, this.#number, 0, bytes, sent),
        end: (done) => {
          end();
          done();
        },
        abandon: end,
      },
      FRAME_COST,
    );
  }

  #finish(status: ExitStatus): void {
    this.#over = true;
    this.#input?.closedByGuest();
    for (const output of this.#outputs) output.finish();
    this.#resolveExit(Object.freeze(status));
  }

  /** It did not start. A program that can't be run is a result, as in a shell; a wrong user or folder is the caller's error. */
  #failed(errno: string, stage: string): void {
    const { command, cwd, user } = this.#request;
    if (stage === "exec") {
      const name = typeof command === "string" ? "/bin/sh" : command[0];
      const output = this.#outputs[this.#request.tty === undefined ? 1 : 0];
      output.deliver(Buffer.from(`smolvm: can't run '${name ?? ""}': ${errnoMeaning(errno)}\n`));
      this.#resolveStarted(0);
      this.#finish({ exitCode: errno === "ENOENT" ? 127 : 126, signal: null });
      return;
    }
    let error: Error;
    if (stage === "user" && errno === "ENOENT") {
      error = new ValidationError(`user '${user ?? ""}' does not exist in the guest.`, {
        hint: "Give a user of the guest's /etc/passwd, or a number.",
      });
    } else if (stage === "cwd") {
      error = new GuestFileError(errno, "enter", cwd ?? "/");
    } else {
      error = new CommandExecutionUnavailableError(
        `The guest could not start the command (${stage}): ${errnoMeaning(errno)}.`,
        {
          hint: "The guest lacks memory or processes: end some of its commands, or give the machine more memory.",
          details: { errno, stage },
        },
      );
    }
    this.lost(error);
  }
}

function checkSize(size: TerminalSize): void {
  for (const [field, value] of Object.entries(size)) {
    if (Number.isInteger(value) && value >= 0 && value <= 0xffff) continue;
    throw new ValidationError(`${field} of a terminal must be between 0 and 65535, not ${String(value)}.`);
  }
}

function encodeExec(request: ExecRequest): Buffer {
  const { command, tty } = request;
  const argv = typeof command === "string" ? ["/bin/sh", "-c", command] : command;
  if (argv.length === 0 || argv[0] === "") throw new ValidationError("command must not be empty.");
  if (tty !== undefined) checkSize({ cols: tty.cols, rows: tty.rows });
  const flags = (tty === undefined ? 0 : 1) | (request.stdin === true ? 2 : 0);
  const payload = new PayloadWriter().u8(flags).u32(OUTPUT_WINDOW).u32(OUTPUT_WINDOW);
  payload.u16(tty?.cols ?? 0).u16(tty?.rows ?? 0);
  payload.string(request.user ?? "", "user").string(request.cwd ?? "", "cwd");
  payload.u32(argv.length);
  for (const argument of argv) payload.string(argument, "command");
  return encodeEnvironment(payload, request.env ?? {}).finish("The command with its environment");
}
