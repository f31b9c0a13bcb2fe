import { defineCommand } from "../command.js";
import { UsageError } from "../failure.js";
import { machine } from "../machines.js";

export const cp = defineCommand({
  summary: "Copy files and folders into and out of a machine",
  description: `One of the two is MACHINE:PATH, with an absolute path. Modes and times are kept. What is there already is
overwritten.`,
  positionals: [
    { name: "FROM", completes: "path" },
    { name: "TO", completes: "path" },
  ],
  examples: ["smolvm cp ./src box:/work", "smolvm cp box:/work/out.tar ."],
  async run({ positionals: [from = "", to = ""] }, { signal }) {
    const source = inMachine(from);
    const target = inMachine(to);
    if (source === null && target !== null) {
      const vm = await machine(target.id);
      await vm.files.upload(from, target.path, { signal });
    } else if (source !== null && target === null) {
      const vm = await machine(source.id);
      await vm.files.download(source.path, to, { signal });
    } else {
      throw new UsageError("Exactly one of FROM and TO must be in a machine, as MACHINE:PATH.", {
        details: { from, to },
      });
    }
    return { data: { from, to } };
  },
});

/** "box:/work"; everything else is a path on this host, "./a:/b" too. */
function inMachine(text: string): { id: string; path: string } | null {
  const [, id, path] = /^([a-z0-9][a-z0-9_-]*):(\/.*)$/s.exec(text) ?? [];
  return id === undefined || path === undefined ? null : { id, path };
}
