import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { packageRoot } from "../../src/host/package.js";
import { BIN, environment, temporaryFolder } from "./smolvm.js";

/** Each of these costs milliseconds before anything is printed. */
const HEAVY = ["http", "https", "tls", "crypto", "child_process", "worker_threads", "readline/promises", "zlib"];

/** The program that the package installs. */
async function bundled(): Promise<string> {
  const { bin } = JSON.parse(await readFile(join(packageRoot(), "package.json"), "utf8")) as {
    bin: { smolvm: string };
  };
  return join(packageRoot(), bin.smolvm);
}

async function loadedBy(program: string, args: readonly string[], home: string): Promise<Set<string>> {
  const hook = join(packageRoot(), "test", "fixtures", "loaded.mjs");
  const { stderr } = await promisify(execFile)(process.execPath, ["--import", hook, program, ...args], {
    env: environment({ SMOLVM_HOME: home }),
  });
  return new Set(stderr.split("\n"));
}

test("commands that only look something up load nothing heavy", async (context) => {
  const home = await temporaryFolder(context);
  for (const program of [await bundled(), BIN]) {
    for (const args of [["--version"], ["--help"], ["image", "ls"], ["image", "pull", "--help"], ["run", "--help"]]) {
      const loaded = await loadedBy(program, args, home);
      assert.ok(loaded.has("fs"), "the list is there");
      assert.deepEqual(
        HEAVY.filter((name) => loaded.has(name)),
        [],
        `${program} ${args.join(" ")}`,
      );
    }
  }
});

test("the bundled program, which the package installs, answers as the modules do", async (context) => {
  const shipped = await bundled();
  const env = environment({ SMOLVM_HOME: await temporaryFolder(context) });
  const lookups = [
    ["--version"],
    ["--help"],
    ["image", "ls"],
    ["image", "--help"],
    ["run", "--help"],
    ["__complete", "image", "p"],
  ];
  const others = [["nonsense"], ["image", "pull", "nothing-of-that-name"], ["run"], ["image", "ls", "--nope"]];
  for (const args of [...lookups, ...others]) {
    const answers = [shipped, BIN].map((program) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { env, encoding: "utf8" });
      return { status, stdout, stderr };
    });
    assert.deepEqual(answers[0], answers[1], args.join(" "));
    assert.equal(answers[0]?.status === 0, lookups.includes(args), args.join(" "));
  }
});
