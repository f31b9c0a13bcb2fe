import { ValidationError, VMNotFoundError } from "../errors.js";
import type { SmolVM } from "../machine/index.js";
import type { Invocation, Outcome, PositionalDescription } from "./command.js";
import { forEachName } from "./several.js";

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

/** Does one thing to each machine: see `forEachName`. */
export async function forEachMachine(
  ids: readonly string[],
  invocation: Invocation,
  action: (vm: SmolVM) => Promise<void>,
  { skipMissing = false } = {},
): Promise<Outcome> {
  const { done, ...outcome } = await forEachName(ids, invocation, async (vmId) => {
    try {
      await action(await machine(vmId));
    } catch (error) {
      if (skipMissing && error instanceof VMNotFoundError) return null;
      throw error;
    }
    return {};
  });
  return { ...outcome, data: [...done].map(([vmId, { ok, error }]) => ({ vmId, ok, error })) };
}
