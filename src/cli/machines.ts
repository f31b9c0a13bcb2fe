import { ValidationError, VMNotFoundError } from "../errors.js";
import type { SmolVM } from "../machine/index.js";
import type { Failure, Invocation, Outcome, PositionalDescription } from "./command.js";
import { describeFailure, plainFailure, printFailure, STATUS } from "./failure.js";
import { writeOut } from "./output.js";

export const MACHINE = { name: "MACHINE", completes: "machine" } as const satisfies PositionalDescription;
export const MACHINES = { ...MACHINE, repeat: true } as const satisfies PositionalDescription;

/** @throws VMNotFoundError, ValidationError */
export async function machine(id: string): Promise<SmolVM> {
  const { SmolVM } = await import("../machine/index.js");
  try {
    return await SmolVM.fromId(id);
  } catch (error) {
    if (!(error instanceof ValidationError)) throw error;
    // It is an argument here, and not what --name would call a new machine.
    throw new ValidationError(error.message.replace(/^vmId\b/, "MACHINE"), { details: error.details, cause: error });
  }
}

interface Done {
  readonly vmId: string;
  readonly ok: boolean;
  readonly error: ReturnType<typeof plainFailure> | null;
}

/**
 * Does one thing to each machine, in the order given. The id of each that is done is printed at once; one that fails does not
 * keep it from the others.
 */
export async function forEachMachine(
  ids: readonly string[],
  { json, debug, signal }: Invocation,
  action: (vm: SmolVM) => Promise<void>,
  { skipMissing = false } = {},
): Promise<Outcome> {
  const done: Done[] = [];
  const failures: Failure[] = [];
  for (const vmId of new Set(ids)) {
    signal.throwIfAborted();
    try {
      await action(await machine(vmId));
    } catch (error) {
      signal.throwIfAborted();
      if (skipMissing && error instanceof VMNotFoundError) continue;
      const failure = describeFailure(error, STATUS.failed);
      printFailure(failure, debug ? error : undefined);
      failures.push(failure);
      done.push({ vmId, ok: false, error: plainFailure(failure) });
      continue;
    }
    done.push({ vmId, ok: true, error: null });
    if (!json) await writeOut(`${vmId}\n`);
  }
  const [first] = failures;
  if (first === undefined) return { data: done };
  const alike = failures.every(({ exitCode }) => exitCode === first.exitCode) && failures.length === done.length;
  return { data: done, exitCode: alike ? first.exitCode : STATUS.failed, error: first };
}
