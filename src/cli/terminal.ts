/* Everything for people goes to stderr, through this file. stdout is for what was asked for. */

const on = (name: string): boolean => (process.env[name] ?? "") !== "";

/** Lines may be drawn anew: a person looks at a terminal that can do it. */
export function isInteractive(): boolean {
  return process.stderr.isTTY && process.env["TERM"] !== "dumb" && !on("CI");
}

function hasColour(): boolean {
  return process.stderr.isTTY && process.env["TERM"] !== "dumb" && !on("NO_COLOR");
}

function style(code: number, text: string): string {
  return hasColour() ? `\u001b[${code}m${text}\u001b[0m` : text;
}

const bold = (text: string): string => style(1, text);
const dim = (text: string): string => style(2, text);
export const red = (text: string): string => style(31, text);
const yellow = (text: string): string => style(33, text);

export function print(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Warnings of the library are shown as the errors are; those of Node are for developers, and shown with `--debug` only. */
export function showWarnings(globals: { readonly debug: boolean }): void {
  process.removeAllListeners("warning");
  process.on("warning", (warning: Error & { detail?: string }) => {
    if (warning.name !== "SmolVMWarning" && !globals.debug) return;
    print(`${yellow("smolvm: warning:")} ${warning.message}`);
    if (warning.detail !== undefined) print(`${bold("hint:")} ${warning.detail}`);
  });
}

/** The one form in which every failure is shown. */
export function printError(message: string, hint: string | null, context: readonly string[]): void {
  print(`${red("smolvm:")} ${message}`);
  for (const line of context) print(dim(`  | ${line}`));
  if (hint !== null) print(`${bold("hint:")} ${hint}`);
}

/** Asks a person; no is the answer of an empty line and of an ended input. */
export async function confirm(question: string, signal: AbortSignal): Promise<boolean> {
  const { createInterface } = await import("node:readline/promises");
  const asked = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await Promise.race([
      asked.question(`${question} [y/N] `, { signal }),
      new Promise<string>((resolve) => asked.once("close", () => resolve(""))),
    ]);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    asked.close();
  }
}

/** Someone is there to answer. */
export function canAsk(): boolean {
  return process.stdin.isTTY && process.stderr.isTTY;
}

/** Nothing has to be asked: the user has said yes, or it is a CI job, where nobody could and its machine is thrown away. */
export function agreedBeforehand(yes: boolean): boolean {
  return yes || process.env["CI"] === "true";
}
