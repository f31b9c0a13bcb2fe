import { addAbortSignal } from "node:stream";

import { defineCommand } from "../command.js";
import { writeOut } from "../output.js";
import { machine, MACHINE } from "../machines.js";
import { integer } from "../values.js";

export const logs = defineCommand({
  summary: "Show a machine's console: what its kernel has printed",
  positionals: [MACHINE],
  options: {
    follow: { short: "f", summary: "Go on showing what comes, until the machine stops" },
    tail: { value: "N", short: "n", summary: "Of what is there, only the last lines" },
  },
  examples: ["smolvm logs box", "smolvm logs --tail 20 box"],
  async run({ positionals: [id = ""], options }, { json, signal }) {
    const tail = integer("--tail", options.tail);
    const vm = await machine(id);
    const before = vm.console();
    if (!options.follow) {
      const text = lastLines(before, tail);
      return { data: { console: text }, text };
    }
    const stream = addAbortSignal(signal, vm.consoleStream());
    // The stream begins with all that there is, as one piece.
    let isBefore = before !== "";
    let all = "";
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      const shown = isBefore && tail !== undefined ? lastLines(chunk.toString(), tail) : chunk;
      isBefore = false;
      if (json) all += shown.toString();
      else await writeOut(shown);
    }
    return { data: { console: all } };
  },
});

/** A line without an end counts as one. */
function lastLines(text: string, count: number | undefined): string {
  if (count === undefined) return text;
  let start = text.length;
  for (let lines = 0; lines < count && start > 0; lines++) {
    start = start < 2 ? 0 : text.lastIndexOf("\n", start - 2) + 1;
  }
  return text.slice(start);
}
