import { constants } from "node:os";

import { ClosedPipe, describeFailure, Interruption, isClosedPipe, printFailure, STATUS } from "./failure.js";
import { exit, hasHungUp, HUNG_UP } from "./hang-up.js";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const satisfies readonly NodeJS.Signals[];

/** Ending in order takes a moment: a machine has to go. What takes longer than this hangs. */
const GRACE_MS = 20_000;

interface Interrupt extends Disposable {
  /** Aborts when the program is to end: by a signal, or because nobody reads its output any more. */
  readonly signal: AbortSignal;
}

/** The first signal lets everything end in order. The second ends the program at once: its machines end with it. */
export function onInterrupt(): Interrupt {
  const controller = new AbortController();
  const end = (reason: Interruption): void => {
    if (controller.signal.aborted) exit(reason.exitCode);
    setTimeout(() => exit(reason.exitCode), GRACE_MS).unref();
    controller.abort(reason);
  };
  const onSignal = (name: NodeJS.Signals): void => {
    end(new Interruption(`Interrupted by ${name}.`, "INTERRUPTED", 128 + constants.signals[name]));
  };
  const onError = (error: NodeJS.ErrnoException): void => {
    const reason = outputIsGone(error);
    if (reason !== null) {
      // It comes again with everything that is still written: only the first tells something.
      if (!controller.signal.aborted) end(reason);
      return;
    }
    const failure = describeFailure(error, STATUS.smolvmFailed);
    printFailure(failure, error);
    exit(failure.exitCode);
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  process.on("uncaughtException", onError);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const name of SIGNALS) process.off(name, onSignal);
      process.off("uncaughtException", onError);
    },
  };
}

/** An error that only says that nobody is there any more: no reader of a pipe, or no terminal. */
function outputIsGone(error: NodeJS.ErrnoException): Interruption | null {
  if (isClosedPipe(error)) return new ClosedPipe();
  if (error.code !== "EIO" || !hasHungUp()) return null;
  return new Interruption("The terminal has gone.", "INTERRUPTED", HUNG_UP);
}
