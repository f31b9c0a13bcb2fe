import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { packageRoot } from "../../src/host/package.js";

const CODE = "[A-Z][A-Z_0-9]+";

/** What a source file gives as the code of an error or of a warning. */
const GIVEN = [
  new RegExp(`new \\w*Error\\(\\s*"(${CODE})"`, "g"),
  new RegExp(`\\bsuper\\("(${CODE})"`, "g"),
  new RegExp(`\\bcode\\??: "(${CODE})"`, "g"),
  // The members of a union type of codes.
  new RegExp(`\\| "(${CODE})"`, "g"),
];

async function codesInSource(): Promise<string[]> {
  const folder = join(packageRoot(), "src");
  const files = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith(".ts"));
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
  return uniqueMatches(texts.join("\n"), GIVEN);
}

async function page(): Promise<string> {
  return readFile(join(packageRoot(), "docs", "errors.md"), "utf8");
}

function uniqueMatches(text: string, patterns: readonly RegExp[]): string[] {
  const found = patterns.flatMap((pattern) => [...text.matchAll(pattern)].map((match) => match[1] ?? ""));
  return [...new Set(found)].sort();
}

test("the page of errors has every code that the source gives, and no other", async () => {
  const documented = uniqueMatches(await page(), [new RegExp(`^\\| \`(${CODE})\``, "gm")]);
  assert.deepEqual(documented, await codesInSource());
  // The patterns above find all of them: one of each kind.
  for (const code of ["VALIDATION", "IMAGE_IN_USE", "OUTPUT_TOO_LARGE", "EFBIG", "USAGE", "CLOSED_PIPE", "INTERNAL"]) {
    assert.ok(documented.includes(code), code);
  }
});

test("the page of errors says of each code which class it has", async () => {
  const source = await readFile(join(packageRoot(), "src", "errors.ts"), "utf8");
  const classes = uniqueMatches(source, [/^export class (\w+)/gm]);
  const named = uniqueMatches(await page(), [new RegExp(`^\\| \`${CODE}\` +\\| \`(\\w+)\``, "gm")]);
  assert.deepEqual(named, classes);
});
