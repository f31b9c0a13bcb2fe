import { inspect } from "node:util";

import { SmolVMError } from "../errors.js";
import type { Failure } from "./command.js";
import { printError } from "./terminal.js";
import { inOptions } from "./wording.js";

/** The arguments on the command line are wrong. */
export class UsageError extends SmolVMError {
  constructor(message: string, options?: { hint?: string; details?: Readonly<Record<string, unknown>> }) {
    super("USAGE", message, options);
  }
}

/** The user, the system or a reader that left has ended the program: no failure, and not a word on the terminal. */
export class Interruption extends Error {
  readonly code: "INTERRUPTED" | "CLOSED_PIPE";
  readonly exitCode: number;

  constructor(message: string, code: Interruption["code"], exitCode: number) {
    super(message);
    this.code = code;
    this.exitCode = exitCode;
  }
}

/** `smolvm run … | head -1`: the status is the one that the shell gives for a program that SIGPIPE ended. */
export class ClosedPipe extends Interruption {
  constructor() {
    super("Nobody reads the output.", "CLOSED_PIPE", 141);
  }
}

export function isClosedPipe(error: unknown): boolean {
  const { code, syscall } = error instanceof Error ? (error as NodeJS.ErrnoException) : {};
  return code === "EPIPE" && syscall === "write";
}

/** Exit statuses that stand for one thing in every command. */
export const STATUS = { failed: 1, usage: 2, timedOut: 124, smolvmFailed: 125 } as const;

/** Makes of anything that was thrown what people and programs are told. */
export function describeFailure(error: unknown, hostFailureStatus: number): Failure {
  if (error instanceof Interruption) {
    return { exitCode: error.exitCode, code: error.code, message: error.message, hint: null, details: {} };
  }
  if (isClosedPipe(error)) return describeFailure(new ClosedPipe(), hostFailureStatus);
  if (error instanceof SmolVMError) {
    return { exitCode: statusOf(error, hostFailureStatus), code: error.code, ...inOptions(error) };
  }
  return {
    exitCode: hostFailureStatus,
    code: "INTERNAL",
    message: error instanceof Error ? error.message : String(error),
    hint: "This is a defect of smolvm. Please report it with what the same command prints with --debug.",
    details: {},
  };
}

function statusOf(error: SmolVMError, hostFailureStatus: number): number {
  if (error.code === "USAGE" || error.code === "VALIDATION") return STATUS.usage;
  if (error.code === "OPERATION_TIMEOUT") return STATUS.timedOut;
  return hostFailureStatus;
}

/** What programs are told of a failure: all but the status, which the envelope has. */
export function plainFailure({ code, message, hint, details }: Failure): Omit<Failure, "exitCode"> {
  return { code, message, hint, details };
}

/** Shows a failure; `thrown` is given when its causes are to be shown as well. */
export function printFailure(failure: Failure, thrown: unknown): void {
  if (failure.code === "INTERRUPTED" || failure.code === "CLOSED_PIPE") return;
  printError(failure.message, failure.hint, consoleTail(failure));
  let intro = "";
  for (let cause = thrown; cause !== undefined; cause = cause instanceof Error ? cause.cause : undefined) {
    process.stderr.write(`${intro}${cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause)}\n`);
    intro = "caused by: ";
  }
}

/** A machine that did not come up says why on its console, and nowhere else. */
function consoleTail(failure: Failure): readonly string[] {
  const tail = failure.details["consoleTail"];
  return Array.isArray(tail) ? tail.map(String) : [];
}
