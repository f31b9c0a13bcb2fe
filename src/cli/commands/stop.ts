import { defineCommand } from "../command.js";
import { forEachMachine, MACHINES } from "../machines.js";

export const stop = defineCommand({
  summary: "Stop machines; their disks stay",
  positionals: [MACHINES],
  run: ({ positionals }, invocation) => forEachMachine(positionals, invocation, (vm) => vm.stop()),
});
