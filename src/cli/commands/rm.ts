import { VMNotFoundError, VMStateError } from "../../errors.js";
import { defineCommand } from "../command.js";
import { forEachMachine, MACHINES } from "../machines.js";

export const rm = defineCommand({
  summary: "Delete machines and their disks",
  positionals: [MACHINES],
  options: { force: { short: "f", summary: "Delete running machines, too, and do not mind those that are gone" } },
  async run({ positionals, options }, { signal }) {
    const ids = options.force ? await thoseThere(positionals) : positionals;
    return forEachMachine(ids, signal, async (vm) => {
      if (vm.status === "running" && !options.force) {
        throw new VMStateError(`Machine '${vm.vmId}' is running.`, {
          hint: `Stop it first: smolvm stop ${vm.vmId}   or delete it as it is: smolvm rm --force ${vm.vmId}`,
          details: { vmId: vm.vmId, status: vm.status },
        });
      }
      await vm.delete();
    });
  },
});

async function thoseThere(ids: readonly string[]): Promise<string[]> {
  const { SmolVM } = await import("../../machine/index.js");
  const there: string[] = [];
  for (const id of ids) {
    try {
      await SmolVM.fromId(id);
      there.push(id);
    } catch (error) {
      if (!(error instanceof VMNotFoundError)) throw error;
    }
  }
  return there;
}
