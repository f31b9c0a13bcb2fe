import { stat } from "node:fs/promises";
import { basename, join, posix, resolve } from "node:path";

import { GuestFileError } from "../../errors.js";
import type { SmolVM } from "../../machine/index.js";
import { defineCommand } from "../command.js";
import { UsageError } from "../failure.js";
import { machine } from "../machines.js";
import { pump } from "../output.js";

/** In place of a path of this host: its stdin or stdout. */
const STANDARD = "-";

export const cp = defineCommand({
  summary: "Copy files and folders into and out of a machine",
  description: `One of the two is MACHINE:PATH, with an absolute path. Modes and times are kept. What goes to a folder that
is there goes into it; files that are there are overwritten.

'-' for the other is stdin or stdout: the content of one file. The folder of the machine that it goes to has to be there.`,
  positionals: [
    { name: "FROM", completes: "path" },
    { name: "TO", completes: "path" },
  ],
  examples: [
    "smolvm cp ./src box:/job",
    "smolvm cp box:/job/out.tar .",
    "date | smolvm cp - box:/job/begun",
    "smolvm cp box:/etc/hostname -",
  ],
  async run({ positionals: [from = "", to = ""] }, { json, signal }) {
    const source = inMachine(from);
    const target = inMachine(to);
    if ((source === null) === (target === null)) throw notOneMachine(from, to);
    if (json && to === STANDARD) throw new UsageError("With --json stdout has no place for a file: name one for TO.");
    if (target !== null) await copyIn(await machine(target.id), from, target.path, signal);
    if (source !== null) await copyOut(await machine(source.id), source.path, to, signal);
    return { data: { from, to } };
  },
});

/** As with cp: what goes to a folder that is there goes into it, under its own name. */
async function copyIn(vm: SmolVM, from: string, to: string, signal: AbortSignal): Promise<void> {
  if (from === STANDARD) {
    if (to.endsWith("/")) throw new UsageError("What comes from stdin has no name: TO must have one.");
    await vm.files.writeFile(to, process.stdin, { signal });
    return;
  }
  const found = await vm.files.stat(to, { signal }).catch((error: unknown) => {
    if (error instanceof GuestFileError && error.code === "ENOENT") return null;
    throw error;
  });
  const into = to.endsWith("/") || found?.isDirectory() === true;
  await vm.files.upload(from, into ? posix.join(to, basename(resolve(from))) : to, { signal });
}

async function copyOut(vm: SmolVM, from: string, to: string, signal: AbortSignal): Promise<void> {
  if (to === STANDARD) {
    await pump(vm.files.createReadStream(from, { signal }), process.stdout, signal);
    return;
  }
  const found = await stat(to).catch(() => null); // not there: it will be made, or say why it can't
  const into = to.endsWith("/") || found?.isDirectory() === true;
  await vm.files.download(from, into ? join(to, posix.basename(from)) : to, { signal });
}

/** "box:/job"; everything else is a path on this host, "./a:/b" too. */
function inMachine(text: string): { id: string; path: string } | null {
  const [, id, path] = /^([a-z0-9][a-z0-9_-]*):(\/.*)$/s.exec(text) ?? [];
  return id === undefined || path === undefined ? null : { id, path };
}

function notOneMachine(from: string, to: string): UsageError {
  const details = { from, to };
  for (const text of [from, to]) {
    const [, id, path] = /^([a-z0-9][a-z0-9_-]*):([^/].*)?$/s.exec(text) ?? [];
    if (id === undefined) continue;
    return new UsageError(`The path in a machine must be absolute, and that of '${text}' is not.`, {
      hint: `Write it from the root: ${id}:/${path ?? ""}`,
      details,
    });
  }
  return new UsageError("Exactly one of FROM and TO must be in a machine, as MACHINE:PATH.", { details });
}
