/** A fenced block of a Markdown page. */
export interface Block {
  /** The first word behind the fence: "ts", "js", "console", "sh", "json", "text". */
  readonly language: string;
  /** The words after it, which say how the tests treat the block. */
  readonly flags: readonly string[];
  readonly text: string;
  /** Of the opening fence, from 1. */
  readonly line: number;
}

/** https://spec.commonmark.org/0.31.2/#fenced-code-blocks, as far as these pages use them: three backticks, not indented. */
export function blocksOf(markdown: string): readonly Block[] {
  const blocks: Block[] = [];
  let open: { language: string; flags: string[]; line: number; text: string[] } | null = null;
  for (const [index, line] of markdown.split("\n").entries()) {
    const fence = /^```(.*)$/.exec(line);
    if (fence === null) {
      open?.text.push(line);
    } else if (open === null) {
      const [language = "", ...flags] = (fence[1] ?? "").trim().split(" ");
      open = { language, flags, line: index + 1, text: [] };
    } else {
      blocks.push({ ...open, text: open.text.join("\n") });
      open = null;
    }
  }
  if (open !== null) throw new Error(`The fence of line ${open.line} is never closed.`);
  return blocks;
}

export interface SessionStep {
  readonly command: string;
  /** What the page says that it prints. "…" stands for anything in its line, and a line of it alone for any lines. */
  readonly printed: readonly string[];
}

/** A terminal session: "$ " begins a command, and what follows is what it prints. */
export function sessionOf({ text }: Block): readonly SessionStep[] {
  const steps: { command: string; printed: string[] }[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("$ ")) steps.push({ command: line.slice(2), printed: [] });
    else steps.at(-1)?.printed.push(line);
  }
  return steps;
}

/** Whether the output is what the page says. */
export function matches(printed: readonly string[], output: string): boolean {
  const quoted = (line: string): string => line.split("…").map(escape).join(".*");
  const pattern = printed.map((line) => (line.trim() === "…" ? "(?:.*\\n)*" : `${quoted(line)}\\n`)).join("");
  return new RegExp(`^${pattern}$`).test(output === "" || output.endsWith("\n") ? output : `${output}\n`);
}

const escape = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
