import { CommandExecutionUnavailableError, SmolVMError, VMStateError } from "../errors.js";
import type { Death } from "./death.js";
import type { VMStatus } from "./state.js";

export interface Standing {
  readonly vmId: string;
  readonly status: VMStatus;
  readonly deleted: boolean;
  readonly death: Death | null;
  readonly cause: unknown;
}

/** What a call is told that needs a running machine: how it ended if it ended by itself, else what it is. */
export function notRunning({ vmId, status, deleted, death, cause }: Standing): CommandExecutionUnavailableError {
  if (death !== null) {
    return new CommandExecutionUnavailableError(`The machine '${vmId}' has ended: ${death.reason}.`, {
      hint: "Start it again to have its disk as it was.",
      cause,
      details: { vmId, reason: death.reason },
    });
  }
  return new CommandExecutionUnavailableError(`The machine '${vmId}' is not running: it is ${status}.`, {
    hint: deleted
      ? "Create another one."
      : "Start it first; where another program or object did, call refresh() to see it.",
    cause,
    details: { vmId, status },
  });
}

/** It runs, as far as is known, but there is no way in. */
export function unreachable(vmId: string, failure: Error | null): CommandExecutionUnavailableError {
  return new CommandExecutionUnavailableError(`The machine '${vmId}' can't be reached.`, {
    cause: failure ?? undefined,
    hint: failure instanceof SmolVMError ? failure.hint : undefined,
    details: { vmId },
  });
}

export function runsAlready(vmId: string): VMStateError {
  return new VMStateError(`The machine '${vmId}' runs already.`, { hint: "Use it as it is, or stop it first." });
}
