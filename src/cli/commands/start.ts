import { defineCommand } from "../command.js";
import { forEachMachine, MACHINES } from "../machines.js";

export const start = defineCommand({
  summary: "Start machines that are stopped, on the disks they had",
  positionals: [MACHINES],
  run: ({ positionals }, { signal }) => forEachMachine(positionals, signal, (vm) => vm.start({ signal })),
});
