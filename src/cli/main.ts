import { readCommand, readGlobals } from "./arguments.js";
import type { Outcome } from "./command.js";
import { commandAt } from "./commands.js";
import { describeFailure, printFailure } from "./failure.js";
import { onInterrupt } from "./interrupt.js";
import { writeOut } from "./output.js";
import { showWarnings } from "./terminal.js";

/** The whole command line: parse, run, one catch. Gives the exit status; the payload is written out by then. */
export async function main(argv: readonly string[]): Promise<number> {
  const globals = { json: false, debug: false };
  let name = "smolvm";
  let hostFailureStatus = 1;
  const interrupt = onInterrupt();
  showWarnings(globals);
  try {
    // Also for words that are no command: what asked for an envelope gets one.
    const found = await commandAt(argv, globals).catch((error: unknown) => {
      const end = argv.indexOf("--");
      globals.json ||= argv.slice(0, end === -1 ? undefined : end).includes("--json");
      throw error;
    });
    name = found.name;
    readGlobals(found.command, found.argv, globals);
    const input = readCommand(name, found.command, found.argv);
    hostFailureStatus = found.command.hostFailureStatus ?? hostFailureStatus;
    const outcome = await found.command.run(input, { ...globals, signal: interrupt.signal });
    await new Promise((resolve) => setImmediate(resolve)); // warnings arrive a turn after what they are about
    interrupt.signal.throwIfAborted();
    await writeOut(globals.json ? await asEnvelope(name, outcome) : (outcome.text ?? ""));
    return outcome.exitCode ?? 0;
  } catch (thrown) {
    // Whatever an interrupted command failed with, the interruption is why.
    const error: unknown = interrupt.signal.aborted ? interrupt.signal.reason : thrown;
    const failure = describeFailure(error, hostFailureStatus);
    printFailure(failure, globals.debug ? thrown : undefined);
    // Where nobody reads it, the status alone has to tell.
    if (globals.json)
      await writeOut(await asEnvelope(name, { exitCode: failure.exitCode, error: failure })).catch(() => undefined);
    return failure.exitCode;
  } finally {
    interrupt[Symbol.dispose]();
  }
}

async function asEnvelope(command: string, { data = null, exitCode = 0, error = null }: Outcome): Promise<string> {
  const { envelope } = await import("./json.js");
  return envelope({ command, exitCode, data, error });
}
