import { addAbortSignal } from "node:stream";

import { defineCommand } from "../command.js";
import { pump } from "../output.js";
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
    const shown = shortened(stream, before === "" ? undefined : tail);
    if (!json) {
      await pump(shown, process.stdout, signal);
      return {};
    }
    let all = "";
    for await (const chunk of shown) all += chunk.toString();
    return { data: { console: all } };
  },
});

/** Of the first piece, which is all that there is so far, only the last lines. */
async function* shortened(stream: AsyncIterable<Buffer>, tail: number | undefined): AsyncGenerator<Buffer | string> {
  let isBefore = true;
  for await (const chunk of stream) {
    yield isBefore && tail !== undefined ? lastLines(chunk.toString(), tail) : chunk;
    isBefore = false;
  }
}

/** A line without an end counts as one. */
function lastLines(text: string, count: number | undefined): string {
  if (count === undefined) return text;
  let start = text.length;
  for (let lines = 0; lines < count && start > 0; lines++) {
    start = start < 2 ? 0 : text.lastIndexOf("\n", start - 2) + 1;
  }
  return text.slice(start);
}
