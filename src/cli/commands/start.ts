import { defineCommand } from "../command.js";
import { forEachMachine, MACHINES } from "../machines.js";

export const start = defineCommand({
  summary: "Start machines that are stopped, on the disks they had",
  positionals: [MACHINES],
  run: ({ positionals }, invocation) =>
    forEachMachine(positionals, invocation, (vm) => vm.start({ signal: invocation.signal })),
});
