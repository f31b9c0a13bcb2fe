import { packageVersion } from "../../host/package.js";
import { defineCommand } from "../command.js";
import { commandNamed, GROUPS } from "../commands.js";
import { commandHelp, overview } from "../help.js";

export const help = defineCommand({
  summary: "Show the help of smolvm or of one command",
  positionals: [{ name: "COMMAND", optional: true, repeat: true, completes: "command" }],
  async run({ positionals }) {
    const text = await helpFor(positionals.join(" "));
    return { text, data: { help: text } };
  },
});

async function helpFor(name: string): Promise<string> {
  if (name === "") return overview(null);
  if (Object.hasOwn(GROUPS, name)) return overview(name);
  return commandHelp(name, await commandNamed(name));
}

export const version = defineCommand({
  summary: "Show the version",
  run() {
    const text = packageVersion();
    return Promise.resolve({ text: `${text}\n`, data: { version: text, node: process.versions.node } });
  },
});

export const completeWords = defineCommand({
  summary: "Print what the last of the words can be completed to",
  guestCommand: "optional",
  async run({ guestCommand }) {
    const { complete } = await import("../complete.js");
    const text = await complete(guestCommand);
    return { text, data: text.split("\n") };
  },
});
