/** Reorders what is shown around it, so that a text reads as another one; and two kinds of line end that are none for a terminal. */
const MISLEADING = /[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** What a terminal would do something with is left out: the text is another's and may be shown to a person. */
export function printable(line: string): string {
  return line
    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "")
    .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "")
    .replace(MISLEADING, "")
    .trimEnd();
}

/** A word or a name of somebody who is not trusted, for a message: one line, of bounded length. */
export function printableNote(text: string, longest = 200): string {
  const line = printable(text.slice(0, longest).replace(/[\t\n]+/g, " "));
  return text.length > longest ? `${line}…` : line;
}
