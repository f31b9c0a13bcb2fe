import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

import { readCommand } from "../../src/cli/arguments.js";
import { commandAt, commandNamed, COMMANDS } from "../../src/cli/commands.js";

/** The words after "smolvm", as a shell takes them apart. */
function wordsOf(example: string): readonly string[] {
  const command = example.split(/ (?:\||&&) /).find((part) => part.startsWith("smolvm ")) ?? "";
  const line = command.slice("smolvm ".length);
  const { status, stdout } = spawnSync("sh", ["-c", `printf '%s\\n' ${line}`], { encoding: "utf8" });
  assert.equal(status, 0, example);
  return stdout.split("\n").slice(0, -1);
}

test("every example in a help is a command line that smolvm takes", async () => {
  let examples = 0;
  for (const shown of Object.keys(COMMANDS)) {
    for (const example of (await commandNamed(shown)).examples ?? []) {
      const { name, command, argv } = await commandAt(wordsOf(example), { json: false, debug: false });
      assert.doesNotThrow(() => readCommand(name, command, argv), example);
      examples += 1;
    }
  }
  assert.ok(examples > 15, `${examples} examples were looked at`);
});

test("the commands that work on machines all have examples", async () => {
  for (const name of ["run", "create", "exec", "cp", "port", "logs"])
    assert.ok((await commandNamed(name)).examples?.length, name);
});
