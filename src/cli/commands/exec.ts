import { defineCommand } from "../command.js";
import { STATUS } from "../failure.js";
import { COMMAND_OPTIONS, readCommandOptions, runInGuest } from "../guest-command.js";
import { machine, MACHINE } from "../machines.js";

const BACKGROUND = "The machine's shell leaves a command running: smolvm exec MACHINE 'COMMAND >/dev/null 2>&1 &'";

export const exec = defineCommand({
  summary: "Run a command in a machine that is running",
  description: `Output and exit status are as with 'smolvm run'. When smolvm is interrupted, the command ends and the
machine stays.`,
  positionals: [MACHINE],
  guestCommand: "required",
  hostFailureStatus: STATUS.smolvmFailed,
  options: {
    env: { value: "NAME=VALUE", short: "e", repeat: true, summary: "Set a variable for this command" },
    ...COMMAND_OPTIONS,
  },
  examples: ["smolvm exec box -- cat /etc/os-release", "tar c . | smolvm exec -i box -- tar x -C /job"],
  elsewhere: { "-d": BACKGROUND, "--detach": BACKGROUND },
  async run({ positionals: [id = ""], options, guestCommand }, invocation) {
    const how = readCommandOptions(options, options.env, invocation);
    return runInGuest(await machine(id), guestCommand, how, invocation);
  },
});
