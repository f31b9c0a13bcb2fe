import { addAbortSignal } from "node:stream";

import { defineCommand } from "../command.js";
import { writeOut } from "../output.js";
import { machine, MACHINE } from "../machines.js";

export const logs = defineCommand({
  summary: "Show a machine's console: what its kernel has printed",
  positionals: [MACHINE],
  options: { follow: { short: "f", summary: "Go on showing what comes, until the machine stops" } },
  async run({ positionals: [id = ""], options }, { json, signal }) {
    const vm = await machine(id);
    if (!options.follow) {
      const text = vm.console();
      return { data: { console: text }, text };
    }
    const stream = addAbortSignal(signal, vm.consoleStream());
    let all = "";
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (json) all += chunk.toString();
      else await writeOut(chunk);
    }
    return { data: { console: all } };
  },
});
