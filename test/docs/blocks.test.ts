import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { packageRoot } from "../../src/host/package.js";
import { blocksOf, matches, sessionOf } from "./blocks.js";

test("a page is taken apart into its blocks, with their lines", () => {
  const page = "# Title\n\n```ts\nconst a = 1;\n```\n\ntext\n\n```console title\n$ ls\na\nb\n$ true\n```\n";
  const blocks = blocksOf(page);
  assert.deepEqual(
    blocks.map(({ language, flags, line }) => [language, flags, line]),
    [
      ["ts", [], 3],
      ["console", ["title"], 9],
    ],
  );
  const [, session] = blocks;
  assert.ok(session);
  assert.deepEqual(sessionOf(session), [
    { command: "ls", printed: ["a", "b"] },
    { command: "true", printed: [] },
  ]);
});

test("a fence that is never closed is an error", () => {
  assert.throws(() => blocksOf("```ts\nconst a = 1;\n"), /line 1/);
});

test("an ellipsis stands for anything in its line, or for any lines, and nothing else is left open", () => {
  assert.ok(matches(["Linux … x86_64"], "Linux 6.1 x86_64\n"));
  assert.ok(matches(["first", "…", "last"], "first\na\nb\nlast\n"));
  assert.ok(matches([], ""));
  assert.ok(!matches(["a+"], "aa\n"));
  assert.ok(!matches(["first"], "first\nsecond\n"));
  assert.ok(!matches(["… x"], "one\ntwo x\n"));
});

const RUNNABLE = ["ts", "js", "console", "sh", "json"];

test("every block of README and docs has a language that the tests execute, or says that it is plain text", async () => {
  const docs = (await readdir(join(packageRoot(), "docs"))).filter((file) => file.endsWith(".md"));
  for (const page of ["README.md", ...docs.map((file) => join("docs", file))]) {
    for (const block of blocksOf(await readFile(join(packageRoot(), page), "utf8"))) {
      assert.ok([...RUNNABLE, "text", "c"].includes(block.language), `${page}:${block.line} '${block.language}'`);
    }
  }
});

test("the scripts that the README names are those of package.json", async () => {
  const readme = await readFile(join(packageRoot(), "README.md"), "utf8");
  const manifest = JSON.parse(await readFile(join(packageRoot(), "package.json"), "utf8")) as {
    scripts: Record<string, string>;
  };
  const named = blocksOf(readme)
    .filter((block) => block.language === "sh")
    .flatMap((block) => [...block.text.matchAll(/^npm (?:run )?([a-z:]+)/gm)].map((match) => match[1] ?? ""));
  assert.ok(named.includes("start") && named.includes("test"));
  for (const script of named) assert.ok(script === "install" || script in manifest.scripts, script);
});
