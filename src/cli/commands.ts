import type { Command } from "./command.js";
import { UsageError } from "./failure.js";
import { asksForHelp, readLeadingGlobals, type Globals } from "./arguments.js";
import { commandMeant } from "./suggest.js";

/** A command is loaded when it is asked for: what one of them needs must not slow the others down. */
type Load = () => Promise<Command>;

/** Every command by the words that are typed for it. The order is that of the help. */
export const COMMANDS: Readonly<Record<string, Load>> = {
  run: async () => (await import("./commands/run.js")).run,
  create: async () => (await import("./commands/create.js")).create,
  start: async () => (await import("./commands/start.js")).start,
  stop: async () => (await import("./commands/stop.js")).stop,
  rm: async () => (await import("./commands/rm.js")).rm,
  ls: async () => (await import("./commands/ls.js")).ls,
  exec: async () => (await import("./commands/exec.js")).exec,
  shell: async () => (await import("./commands/shell.js")).shell,
  logs: async () => (await import("./commands/logs.js")).logs,
  cp: async () => (await import("./commands/cp.js")).cp,
  port: async () => (await import("./commands/port.js")).port,
  inspect: async () => (await import("./commands/inspect.js")).inspect,
  "image ls": async () => (await import("./commands/image-ls.js")).imageLs,
  "image pull": async () => (await import("./commands/image-pull.js")).imagePull,
  "image verify": async () => (await import("./commands/image-verify.js")).imageVerify,
  "image inspect": async () => (await import("./commands/image-inspect.js")).imageInspect,
  "image rm": async () => (await import("./commands/image-rm.js")).imageRm,
  "image prune": async () => (await import("./commands/image-prune.js")).imagePrune,
  "image export": async () => (await import("./commands/image-export.js")).imageExport,
  "image import": async () => (await import("./commands/image-import.js")).imageImport,
  completion: async () => (await import("./commands/completion.js")).completion,
  doctor: async () => (await import("./commands/doctor.js")).doctor,
  setup: async () => (await import("./commands/setup.js")).setup,
};

/** Words that only introduce further commands. */
export const GROUPS: Readonly<Record<string, string>> = { image: "Images and the cache they are kept in" };

export interface Found {
  /** The words of the command, such as "image pull". */
  readonly name: string;
  readonly command: Command;
  /** What follows them. */
  readonly argv: readonly string[];
}

/** Finds the command that the arguments begin with. `--help` and `--version` are commands of their own. */
export async function commandAt(argv: readonly string[], globals: Globals): Promise<Found> {
  const leading = readLeadingGlobals(argv, globals);
  if (leading.asked === "version") return special("version", []);
  const [word, ...rest] = leading.rest;
  if (word === undefined) {
    if (leading.asked === "help") return special("help", []);
    throw new UsageError("No command is given.", { hint: "See: smolvm --help" });
  }
  if (word === "help" || word === "__complete") return special(word, rest);
  if (Object.hasOwn(GROUPS, word)) return inGroup(word, rest, globals, leading.asked);
  if (leading.asked === "help") return special("help", [word]);
  return load(word, rest);
}

async function inGroup(group: string, argv: readonly string[], globals: Globals, asked: string | null): Promise<Found> {
  const leading = readLeadingGlobals(argv, globals);
  const [word, ...rest] = leading.rest;
  if ((asked ?? leading.asked) === "help") return special("help", word === undefined ? [group] : [group, word]);
  if (word === undefined) {
    throw new UsageError(`'smolvm ${group}' needs a command.`, { hint: `See: smolvm ${group} --help` });
  }
  return load(`${group} ${word}`, rest);
}

export async function commandNamed(name: string): Promise<Command> {
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (load === undefined) throw unknownCommand(name);
  return load();
}

async function load(name: string, argv: readonly string[]): Promise<Found> {
  const command = await commandNamed(name);
  return asksForHelp(command, argv) ? special("help", name.split(" ")) : { name, command, argv };
}

/** Commands that are not in the table: options that became words, and what only the shells' completions call. */
async function special(name: "help" | "version" | "__complete", argv: readonly string[]): Promise<Found> {
  const commands = await import("./commands/special.js");
  // What is being completed is not for smolvm to read as options.
  if (name === "__complete") return { name, command: commands.completeWords, argv: ["--", ...argv] };
  return { name, command: commands[name], argv };
}

function unknownCommand(name: string): UsageError {
  const [group = ""] = name.split(" ");
  const known = [...Object.keys(COMMANDS), ...Object.keys(GROUPS)];
  return new UsageError(`Unknown command: 'smolvm ${name}'.`, {
    hint: commandMeant(name, known) ?? `See: smolvm ${Object.hasOwn(GROUPS, group) ? `${group} ` : ""}--help`,
    details: { command: name },
  });
}
