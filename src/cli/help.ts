import { GLOBAL_OPTIONS } from "./arguments.js";
import type { Command, OptionDescription, OptionDescriptions, PositionalDescription } from "./command.js";
import { commandNamed, COMMANDS, GROUPS } from "./commands.js";

/** The help of one command, made from its description. */
export function commandHelp(name: string, command: Command): string {
  const sections = [
    `${command.summary}.\n`,
    `Usage: ${usage(name, command)}\n`,
    ...(command.description === undefined ? [] : [paragraphs(command.description)]),
    `Options:\n${optionLines({ ...command.options, ...GLOBAL_OPTIONS })}`,
  ];
  if (command.examples !== undefined) {
    sections.push(`Examples:\n${command.examples.map((example) => `  $ ${example}\n`).join("")}`);
  }
  return sections.join("\n");
}

function usage(name: string, command: Command): string {
  const words = (command.positionals ?? []).map(wordUsage);
  const guest = { required: ["[--] COMMAND…"], optional: ["[--] [COMMAND…]"] };
  return ["smolvm", name, "[OPTIONS]", ...words, ...(command.guestCommand ? guest[command.guestCommand] : [])].join(
    " ",
  );
}

function wordUsage(word: PositionalDescription): string {
  const name = word.repeat === true ? `${word.name}…` : word.name;
  return word.optional === true ? `[${name}]` : name;
}

function optionLines(options: OptionDescriptions): string {
  const rows = Object.entries(options).map(([name, option]) => [optionUsage(name, option), option.summary] as const);
  const width = Math.min(28, Math.max(...rows.map(([left]) => left.length)));
  return rows.map(([left, summary]) => line(left, summary, width)).join("");
}

function optionUsage(name: string, option: OptionDescription): string {
  const short = option.short === undefined ? "    " : `-${option.short}, `;
  return `${short}--${name}${option.value === undefined ? "" : ` ${option.value}`}`;
}

/** Help is read in terminals of 80 columns, too. */
const COLUMNS = 80;

/** A line of two columns; the right one goes on below itself. */
function line(left: string, summary: string, width: number): string {
  const indent = " ".repeat(2 + width + 2);
  const first = left.length > width ? `  ${left}\n${indent}` : `  ${left.padEnd(width)}  `;
  return `${first}${wrap(summary, COLUMNS - indent.length).join(`\n${indent}`)}\n`;
}

/** Paragraphs are set apart by empty lines. */
function paragraphs(text: string): string {
  return text
    .trim()
    .split(/\n\n+/)
    .map((paragraph) => `${wrap(paragraph, COLUMNS).join("\n")}\n`)
    .join("\n");
}

function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > columns) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}

/** The help of smolvm itself, or of a group of commands. */
export async function overview(group: string | null): Promise<string> {
  const names = Object.keys(COMMANDS).filter((name) => group === null || name.startsWith(`${group} `));
  const width = Math.max(...names.map((name) => name.length));
  const commands = await Promise.all(names.map(commandNamed));
  const lines = names.map((name, position) => line(name, commands[position]?.summary ?? "", width)).join("");
  const intro = group === null ? "Run untrusted code in a throwaway virtual machine." : `${GROUPS[group] ?? ""}.`;
  const options =
    group === null
      ? `\nOptions:\n${optionLines({ ...GLOBAL_OPTIONS, version: { short: "V", summary: "Show the version" } })}`
      : "";
  const words = group === null ? "" : `${group} `;
  return `${intro}

Usage: smolvm ${words}COMMAND [OPTIONS] …

Commands:
${lines}${options}
Help for one command: smolvm ${words}COMMAND --help
`;
}
