import { parseArgs } from "node:util";

import type { Command, Input, OptionDescription, OptionDescriptions } from "./command.js";
import { UsageError } from "./failure.js";
import { didYouMean } from "./suggest.js";

/** What holds for every command, and may stand before or behind its name. */
export interface Globals {
  json: boolean;
  debug: boolean;
}

export const GLOBAL_OPTIONS = {
  json: { summary: "Print one JSON envelope to stdout, and nothing else there" },
  debug: { summary: "Show the causes and the stack of an error" },
  help: { short: "h", summary: "Show this help" },
} as const satisfies OptionDescriptions;

interface Leading {
  readonly asked: "help" | "version" | null;
  readonly rest: readonly string[];
}

/** Reads the options that stand before a command's name. */
export function readLeadingGlobals(argv: readonly string[], globals: Globals): Leading {
  let asked: Leading["asked"] = null;
  let position = 0;
  for (; position < argv.length; position++) {
    const word = argv[position] ?? "";
    if (!word.startsWith("-")) break;
    if (word === "--json") globals.json = true;
    else if (word === "--debug") globals.debug = true;
    else if (word === "--help" || word === "-h") asked ??= "help";
    else if (word === "--version" || word === "-V") asked ??= "version";
    else throw unknownOption(word, ["--json", "--debug", "--help", "--version"], "smolvm");
  }
  return { asked, rest: argv.slice(position) };
}

interface Token {
  readonly kind: "option" | "positional" | "option-terminator";
  readonly index: number;
  readonly name?: string;
  readonly rawName?: string;
  readonly value?: string | undefined;
  readonly inlineValue?: boolean | undefined;
}

/** Splits what belongs to smolvm from what belongs to the guest, and the first into options and words. */
function tokensOf(command: Command, argv: readonly string[]): { own: readonly Token[]; guest: readonly string[] } {
  const options = Object.fromEntries(
    Object.entries({ ...GLOBAL_OPTIONS, ...command.options }).map(([name, option]: [string, OptionDescription]) => [
      name,
      {
        type: option.value === undefined ? ("boolean" as const) : ("string" as const),
        multiple: true,
        ...(option.short === undefined ? {} : { short: option.short }),
      },
    ]),
  );
  // Not strict: the messages are ours, and `--json` must be known even where another option is wrong.
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });
  if (command.guestCommand === undefined) return { own: tokens, guest: [] };
  let wordsLeft = command.positionals?.length ?? 0;
  for (const [position, token] of tokens.entries()) {
    if (token.kind === "option") continue;
    if (token.kind === "option-terminator") {
      return { own: tokens.slice(0, position), guest: argv.slice(token.index + 1) };
    }
    if (wordsLeft-- === 0) return { own: tokens.slice(0, position), guest: argv.slice(token.index) };
  }
  return { own: tokens, guest: [] };
}

/** Takes `--json` and `--debug` from a command's arguments, before anything in them can be found wrong. */
export function readGlobals(command: Command, argv: readonly string[], globals: Globals): void {
  for (const token of tokensOf(command, argv).own) {
    if (token.rawName === "--json") globals.json = true;
    if (token.rawName === "--debug") globals.debug = true;
  }
}

export function asksForHelp(command: Command, argv: readonly string[]): boolean {
  return tokensOf(command, argv).own.some((token) => token.rawName === "--help" || token.rawName === "-h");
}

/** Holds the arguments against the command's description. What does not fit is a UsageError that names it. */
export function readCommand(name: string, command: Command, argv: readonly string[]): Input {
  const { own, guest } = tokensOf(command, argv);
  const described: OptionDescriptions = command.options ?? {};
  const options: Record<string, string | boolean | string[] | undefined> = {};
  for (const [key, option] of Object.entries(described)) {
    options[key] = option.value === undefined ? false : option.repeat ? [] : undefined;
  }
  const positionals: string[] = [];
  for (const token of own) {
    if (token.kind === "positional") positionals.push(token.value ?? "");
    if (token.kind !== "option" || token.name === undefined || Object.hasOwn(GLOBAL_OPTIONS, token.name)) continue;
    const option = Object.hasOwn(described, token.name) ? described[token.name] : undefined;
    const typed = token.rawName ?? token.name;
    if (option === undefined) {
      const known = Object.keys({ ...described, ...GLOBAL_OPTIONS }).map((key) => `--${key}`);
      throw unknownOption(typed, known, `smolvm ${name}`, command.elsewhere);
    }
    const value = valueOf(option, typed, token, name);
    const before = options[token.name];
    options[token.name] = Array.isArray(before) ? [...before, String(value)] : value;
  }
  checkWords(name, command, positionals, guest);
  return { options: options as Input["options"], positionals, guestCommand: guest };
}

function valueOf(option: OptionDescription, typed: string, token: Token, name: string): string | true {
  const hint = `See: smolvm ${name} --help`;
  if (option.value === undefined) {
    if (token.value !== undefined) throw new UsageError(`Option '${typed}' takes no value.`, { hint });
    return true;
  }
  // `--image --cpus 2` is a forgotten value; one that really begins with a dash is written `--image=-x`.
  if (token.value === undefined || (token.inlineValue !== true && /^-./.test(token.value))) {
    throw new UsageError(`Option '${typed}' needs a value: ${typed} ${option.value}`, { hint });
  }
  return token.value;
}

function checkWords(name: string, command: Command, words: readonly string[], guest: readonly string[]): void {
  const described = command.positionals ?? [];
  const hint = `See: smolvm ${name} --help`;
  const required = described.filter((word) => word.optional !== true);
  const missing = required[words.length];
  if (missing !== undefined) throw new UsageError(`${missing.name} is missing.`, { hint });
  const endless = described.some((word) => word.repeat === true);
  const extra = words[described.length];
  if (extra !== undefined && !endless) throw new UsageError(`'${extra}' is one argument too many.`, { hint });
  if (command.guestCommand === "required" && guest.length === 0) {
    throw new UsageError("COMMAND is missing: what is to run in the machine.", { hint });
  }
}

function unknownOption(
  typed: string,
  known: readonly string[],
  command: string,
  elsewhere: Readonly<Record<string, string>> = {},
): UsageError {
  const option = typed.split("=", 1)[0] ?? typed;
  const instead = Object.hasOwn(elsewhere, option) ? elsewhere[option] : undefined;
  return new UsageError(`Unknown option: '${option}'.`, {
    hint: instead ?? didYouMean(option, known) ?? `See: ${command} --help`,
    details: { option },
  });
}
