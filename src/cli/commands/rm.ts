import { VMStateError } from "../../errors.js";
import { defineCommand } from "../command.js";
import { forEachMachine, MACHINES } from "../machines.js";

export const rm = defineCommand({
  summary: "Delete machines and their disks",
  positionals: [MACHINES],
  options: { force: { short: "f", summary: "Delete running machines, too, and do not mind those that are gone" } },
  run: ({ positionals, options: { force } }, invocation) =>
    forEachMachine(
      positionals,
      invocation,
      async (vm) => {
        if (vm.status === "running" && !force) {
          throw new VMStateError(`Machine '${vm.vmId}' is running.`, {
            hint: `Stop it first: smolvm stop ${vm.vmId}   or delete it as it is: smolvm rm --force ${vm.vmId}`,
            details: { vmId: vm.vmId, status: vm.status },
          });
        }
        await vm.delete();
      },
      { skipMissing: force },
    ),
});
