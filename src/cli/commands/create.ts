import { defineCommand } from "../command.js";
import { MACHINE_OPTIONS, readMachineOptions, startMachine } from "../machine-options.js";

export const create = defineCommand({
  summary: "Make a machine that stays, start it, and print its id",
  description: `The machine runs until it is stopped or deleted, also after this command has ended: 'smolvm exec' runs
commands in it, 'smolvm stop' and 'smolvm start' keep its disk, 'smolvm rm' deletes it. Published ports end when it
stops: 'smolvm port' forwards them again.`,
  options: { ...MACHINE_OPTIONS },
  examples: ["smolvm create --name box", "smolvm exec box -- uname -a", "smolvm rm --force box"],
  async run({ options }, { signal }) {
    const wanted = await readMachineOptions(options);
    const vm = await startMachine(wanted, { signal, detached: true });
    return { data: vm.info, text: `${vm.vmId}\n` };
  },
});
