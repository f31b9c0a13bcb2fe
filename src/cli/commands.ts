import type { Command } from "./command.js";
import { UsageError } from "./failure.js";
import { asksForHelp, readLeadingGlobals, type Globals } from "./arguments.js";
import { didYouMean } from "./suggest.js";

interface Entry {
  readonly summary: string;
  /** Loaded when it is asked for: what one command needs must not slow the others down. */
  readonly load: () => Promise<Command>;
}

/** Every command by the words that are typed for it. The order is that of the help. */
export const COMMANDS: Readonly<Record<string, Entry>> = {
  run: {
    summary: "Run a command in a new machine, and delete the machine when it ends",
    load: async () => (await import("./commands/run.js")).run,
  },
  "image ls": {
    summary: "List the images, and which of them are here",
    load: async () => (await import("./commands/image-ls.js")).imageLs,
  },
  "image pull": {
    summary: "Download images and verify them",
    load: async () => (await import("./commands/image-pull.js")).imagePull,
  },
  doctor: {
    summary: "Check that machines can run here, by running one",
    load: async () => (await import("./commands/doctor.js")).doctor,
  },
  setup: {
    summary: "Install what machines need from the system",
    load: async () => (await import("./commands/setup.js")).setup,
  },
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
  if (word === "help") return special("help", rest);
  if (word in GROUPS) return inGroup(word, rest, globals, leading.asked);
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

async function load(name: string, argv: readonly string[]): Promise<Found> {
  const entry = COMMANDS[name];
  if (entry === undefined) throw unknownCommand(name);
  const command = await entry.load();
  return asksForHelp(command, argv) ? special("help", name.split(" ")) : { name, command, argv };
}

/** `help` and `version` are not in the table: they are options that became words. */
async function special(name: "help" | "version", argv: readonly string[]): Promise<Found> {
  const { help, version } = await import("./commands/help.js");
  return { name, command: name === "help" ? help : version, argv };
}

export function unknownCommand(name: string): UsageError {
  const known = [...new Set([...Object.keys(COMMANDS), ...Object.keys(GROUPS)])];
  return new UsageError(`Unknown command: 'smolvm ${name}'.`, {
    hint: didYouMean(name, known, (command) => `smolvm ${command}`) ?? "See: smolvm --help",
    details: { command: name },
  });
}
