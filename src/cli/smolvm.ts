import { exit } from "./hang-up.js";
import { main } from "./main.js";

/*
 * What the shell starts. The build bundles this file, with all that it needs for a look-up, into one CommonJS file: loading
 * modules one by one takes longer than such a command has to work. Everything else goes on in the modules themselves.
 */
const argv = process.argv.slice(2);

if (isLookup(argv)) void main(argv).then(exit);
else void import("./bin.js");

/** Nothing is fetched, made or run for it. */
function isLookup([first = "", second = "", ...more]: readonly string[]): boolean {
  if (["--version", "-V", "--help", "-h", "help", "completion", "__complete"].includes(first)) return true;
  if (first === "image") return second === "ls" || asksForHelp(second) || (more.length === 1 && asksForHelp(more[0]));
  return more.length === 0 && asksForHelp(second);
}

function asksForHelp(word: string | undefined): boolean {
  return word === "--help" || word === "-h";
}
