import { defineCommand } from "../command.js";
import { STATUS } from "../failure.js";
import { COMMAND_OPTIONS, readCommandOptions, runInGuest } from "../guest-command.js";
import { MACHINE_OPTIONS, readMachineOptions, startMachine } from "../machine-options.js";

const STAYS = "A machine that stays is made with: smolvm create";

export const run = defineCommand({
  summary: "Run a command in a new machine, and delete the machine when it ends",
  description: `The output comes as it is written, byte for byte, and the exit status is the command's own: 128 + n when
signal n ended it, 124 when its time was up, 125 when smolvm itself failed. Ctrl-C ends the command and its
machine.

A COMMAND of several words is run as it is; a single word goes to the machine's shell, so 'a | b' works.`,
  guestCommand: "required",
  hostFailureStatus: STATUS.smolvmFailed,
  options: {
    ...MACHINE_OPTIONS,
    ...COMMAND_OPTIONS,
    rm: { summary: "Delete the machine at the end; it always is, and this is accepted for those used to type it" },
  },
  examples: [
    "smolvm run -- uname -a",
    "smolvm run --timeout 10 -v ./job:/job -- sh /job/run.sh",
    "echo hello | smolvm run -i -- tr a-z A-Z",
    "smolvm run -it -- sh",
  ],
  elsewhere: { "-d": STAYS, "--detach": STAYS },
  async run({ options, guestCommand }, invocation) {
    const { signal } = invocation;
    const wanted = await readMachineOptions(options);
    const how = readCommandOptions(options, [], invocation);
    const vm = await startMachine(wanted, { signal });
    try {
      return await runInGuest(vm, guestCommand, how, invocation);
    } finally {
      await vm.delete();
    }
  },
});
