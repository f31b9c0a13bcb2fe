import { GLOBAL_OPTIONS } from "./arguments.js";
import type { VMInfo } from "../machine/index.js";
import type { Command, Completes, OptionDescription, OptionDescriptions } from "./command.js";
import { commandNamed, COMMANDS, GROUPS } from "./commands.js";

/** Asks the shell to complete a path by itself. */
const PATH = ":path";

interface Candidate {
  readonly word: string;
  readonly summary: string;
}

/** The lines for the shell: every word that may stand where the last of `words` is being typed. */
export async function complete(words: readonly string[]): Promise<string> {
  const typed = words.at(-1) ?? "";
  const candidates = await candidatesFor(words.slice(0, -1), typed);
  return candidates
    .filter(({ word }) => word === PATH || word.startsWith(typed))
    .map(({ word, summary }) => (summary === "" ? `${word}\n` : `${word}\t${summary}\n`))
    .join("");
}

async function candidatesFor(before: readonly string[], typed: string): Promise<readonly Candidate[]> {
  const words = before.filter((word) => !Object.hasOwn(LEADING, word));
  const [first = ""] = words;
  const inGroup = Object.hasOwn(GROUPS, first);
  if (words.length === 0 || (inGroup && words.length === 1)) {
    const prefix = inGroup ? `${first} ` : "";
    return typed.startsWith("-") ? optionWords({}) : commandWords(prefix);
  }
  const name = inGroup ? words.slice(0, 2).join(" ") : first;
  if (name === "help") return commandWords(words.length > 1 ? `${words.slice(1).join(" ")} ` : "");
  if (!Object.hasOwn(COMMANDS, name)) return [];
  return argumentsOf(await commandNamed(name), words.slice(inGroup ? 2 : 1), typed);
}

const LEADING: Readonly<Record<string, true>> = { "--json": true, "--debug": true };

/** The next words of the commands that begin with `prefix`. */
async function commandWords(prefix: string): Promise<readonly Candidate[]> {
  const nextWords = new Map<string, string>();
  for (const name of Object.keys(COMMANDS)) {
    if (!name.startsWith(prefix)) continue;
    const [word = "", ...more] = name.slice(prefix.length).split(" ");
    nextWords.set(word, more.length > 0 ? (GROUPS[word] ?? "") : (await commandNamed(name)).summary);
  }
  return [...nextWords].map(([word, summary]) => ({ word, summary }));
}

async function argumentsOf(command: Command, before: readonly string[], typed: string): Promise<readonly Candidate[]> {
  const options: OptionDescriptions = { ...command.options, ...GLOBAL_OPTIONS };
  const positionals: string[] = [];
  for (let index = 0; index < before.length; index++) {
    const word = before[index] ?? "";
    if (word === "--" && command.guestCommand !== undefined) return [];
    if (!word.startsWith("-")) {
      positionals.push(word);
      continue;
    }
    const option = optionNamed(options, word);
    if (option?.value === undefined || word.includes("=")) continue;
    if (index === before.length - 1) return valuesOf(option.completes, typed, positionals);
    index += 1; // its value
  }
  const described = command.positionals ?? [];
  const position = positionals.length;
  if (command.guestCommand !== undefined && position > described.length) return [];
  if (typed.startsWith("--") && typed.includes("=")) return inlineValues(options, typed, positionals);
  if (typed.startsWith("-")) return optionWords(command.options ?? {});
  const word = described[Math.min(position, described.length - 1)];
  return position >= described.length && word?.repeat !== true ? [] : valuesOf(word?.completes, typed, positionals);
}

/** "--network=o": the option belongs to the word that is completed. */
async function inlineValues(
  options: OptionDescriptions,
  typed: string,
  positionals: readonly string[],
): Promise<readonly Candidate[]> {
  const start = typed.indexOf("=") + 1;
  const values = await valuesOf(optionNamed(options, typed)?.completes, typed.slice(start), positionals);
  return values.map(({ word, summary }) => ({ word: word === PATH ? PATH : typed.slice(0, start) + word, summary }));
}

function optionNamed(options: OptionDescriptions, word: string): OptionDescription | undefined {
  if (word.startsWith("--")) return options[word.slice(2).split("=", 1)[0] ?? ""];
  // Of letters that stand together, as in -it, only the last can have a value behind it.
  return Object.values(options).find((option) => option.short === word.at(-1));
}

function optionWords(options: OptionDescriptions): readonly Candidate[] {
  return Object.entries({ ...options, ...GLOBAL_OPTIONS }).map(([name, { summary }]) => ({
    word: `--${name}`,
    summary,
  }));
}

async function valuesOf(
  completes: Completes | undefined,
  typed: string,
  positionals: readonly string[],
): Promise<readonly Candidate[]> {
  const plain = (word: string): Candidate => ({ word, summary: "" });
  if (completes === undefined) return [];
  // Behind a colon it is a path of the machine, or of another host.
  if (completes === "path") return typed.includes(":") ? [] : [plain(PATH)];
  if (completes === "command") return commandWords("");
  if (completes === "image") return (await imageNames()).map(plain);
  if (completes === "machine") return (await machines()).map(({ vmId }) => plain(vmId));
  if (completes === "forwarded-port") {
    const asked = (await machines()).filter(({ vmId }) => positionals.length === 0 || vmId === positionals[0]);
    return asked.flatMap(({ ports }) =>
      ports.map(({ hostPort, guestPort }) => ({ word: String(hostPort), summary: `port ${guestPort} of the machine` })),
    );
  }
  return completes.map(plain);
}

async function imageNames(): Promise<readonly string[]> {
  const { DEFAULT_IMAGE, imageManager } = await import("./images.js");
  const manager = await imageManager({ registry: undefined, offline: true });
  return [...new Set([DEFAULT_IMAGE, ...(await manager.list()).map((image) => image.name)])];
}

async function machines(): Promise<readonly VMInfo[]> {
  const { SmolVM } = await import("../machine/index.js");
  return SmolVM.list();
}
