import type { SmolVM } from "../machine/index.js";
import type { Outcome, PositionalDescription } from "./command.js";

export const MACHINE = { name: "MACHINE", completes: "machine" } as const satisfies PositionalDescription;
export const MACHINES = { ...MACHINE, repeat: true } as const satisfies PositionalDescription;

/** @throws VMNotFoundError */
export async function machine(id: string): Promise<SmolVM> {
  const { SmolVM } = await import("../machine/index.js");
  return SmolVM.fromId(id);
}

/** Does one thing to each machine, in the order given, and prints the id of each that is done. */
export async function forEachMachine(
  ids: readonly string[],
  signal: AbortSignal,
  action: (vm: SmolVM) => Promise<void>,
): Promise<Outcome> {
  const done: string[] = [];
  for (const id of new Set(ids)) {
    signal.throwIfAborted();
    await action(await machine(id));
    done.push(id);
  }
  return { data: done, text: done.map((id) => `${id}\n`).join("") };
}
