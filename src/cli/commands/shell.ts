import { defineCommand } from "../command.js";
import { STATUS } from "../failure.js";
import { readCommandOptions, runInGuest } from "../guest-command.js";
import { machine, MACHINE } from "../machines.js";

export const shell = defineCommand({
  summary: "Open a shell in a machine that is running",
  description: "On a terminal the shell has one, too; else it reads commands from stdin.",
  positionals: [MACHINE],
  hostFailureStatus: STATUS.smolvmFailed,
  options: {
    env: { value: "NAME=VALUE", short: "e", repeat: true, summary: "Set a variable for the shell" },
    workdir: { value: "PATH", short: "w", summary: "Folder in the machine to begin in" },
    user: { value: "NAME", short: "u", summary: "User in the machine (default: root)" },
  },
  async run({ positionals: [id = ""], options }, invocation) {
    const tty = process.stdin.isTTY && !invocation.json;
    const how = readCommandOptions({ ...options, interactive: true, tty, timeout: undefined }, options.env, invocation);
    return runInGuest(await machine(id), LOGIN_SHELL, how, invocation);
  },
});

/** The best shell that the image has: a single word, which the guest's own /bin/sh reads. */
const LOGIN_SHELL = ["if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi"] as const;
