import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";

import { SHELLS } from "../../src/cli/shell-scripts.js";
import { serveImages } from "./registry.js";
import { BIN, environment, smolvm, temporaryFolder } from "./smolvm.js";

/** What may stand in place of the last word. */
async function candidates(words: readonly string[], env: Record<string, string> = {}): Promise<string[]> {
  const { status, stdout } = await smolvm(["__complete", ...words], { env });
  assert.equal(status, 0);
  return stdout
    .toString()
    .split("\n")
    .filter(Boolean)
    .map((line) => line.split("\t")[0] ?? "");
}

test("commands, then the commands of a group, are completed", async () => {
  assert.deepEqual(await candidates(["se"]), ["setup"]);
  assert.deepEqual(await candidates(["image", "p"]), ["pull", "prune"]);
  assert.deepEqual(await candidates(["--json", "image", "imp"]), ["import"]);
  assert.deepEqual(await candidates(["help", "image", "v"]), ["verify"]);
});

test("options, and the values that an option can have, are completed", async () => {
  assert.deepEqual(await candidates(["run", "--tim"]), ["--timeout"]);
  assert.deepEqual(await candidates(["run", "--network", ""]), ["restricted", "open", "none"]);
  assert.deepEqual(await candidates(["run", "-it", "--network", "o"]), ["open"]);
  assert.deepEqual(await candidates(["run", "--network=o"]), ["--network=open"]);
  assert.deepEqual(await candidates(["run", "--network="]), [
    "--network=restricted",
    "--network=open",
    "--network=none",
  ]);
  assert.deepEqual(await candidates(["run", "--registry=x"]), [":path"]);
  assert.deepEqual(await candidates(["run", "--cpus="]), []);
  assert.deepEqual(await candidates(["completion", ""]), ["bash", "zsh", "fish"]);
  assert.deepEqual(await candidates(["image", "import", "x"]), [":path"]);
  assert.deepEqual(await candidates(["cp", "box:/x"]), []);
  assert.deepEqual(await candidates(["constructor", ""]), []);
});

test("images are completed by the names that the registry and the cache have", async (context) => {
  const folder = await temporaryFolder(context);
  const registry = join(folder, "registry.json");
  const address = "http://127.0.0.1:1/none";
  const source = (name: string) => ({ name, kernel_url: address, rootfs_url: address });
  await writeFile(registry, JSON.stringify({ alpine: source("alpine"), debian: source("debian") }));
  const env = { SMOLVM_REGISTRY: registry, SMOLVM_HOME: folder };
  assert.deepEqual(await candidates(["image", "pull", ""], env), ["default", "alpine", "debian"]);
  assert.deepEqual(await candidates(["run", "--image", "al"], env), ["alpine"]);
});

test("completing images waits for no server: those that are here have to do", async (context) => {
  const { env } = await serveImages(context);
  assert.equal((await smolvm(["image", "pull", "one"], { env })).status, 0);
  let asked = 0;
  const silent = createServer(() => (asked += 1)).listen(0, "127.0.0.1");
  context.after(() => {
    silent.closeAllConnections();
    silent.close();
  });
  await once(silent, "listening");
  const address = `http://127.0.0.1:${(silent.address() as AddressInfo).port}/registry.json`;
  assert.deepEqual(await candidates(["image", "rm", ""], { ...env, SMOLVM_REGISTRY: address }), ["default", "one"]);
  assert.equal(asked, 0);
});

test("what belongs to the guest's command is left alone", async () => {
  assert.deepEqual(await candidates(["run", "--", "s"]), []);
  assert.deepEqual(await candidates(["run", "ls", "--n"]), []);
});

test("an unknown shell is a usage error", async () => {
  const { status, stderr } = await smolvm(["completion", "tcsh"]);
  assert.equal(status, 2);
  assert.match(stderr, /'tcsh' is not one of bash, zsh, fish/);
});

/** A folder with a `smolvm` that the shell finds, and what the given shell completes there. */
async function shellWith(context: TestContext) {
  const folder = await temporaryFolder(context);
  const bin = join(folder, "bin");
  await mkdir(bin);
  await writeFile(join(bin, "smolvm"), `#!/bin/sh\nexec ${process.execPath} ${BIN} "$@"\n`);
  await chmod(join(bin, "smolvm"), 0o755);
  await writeFile(join(folder, "an image.smolvm"), "");
  const env = environment({ PATH: `${bin}:${process.env["PATH"] ?? ""}`, HOME: folder, SMOLVM_HOME: folder });
  return { folder, env };
}

test("bash completes words, and paths with spaces in them", async (context) => {
  const { folder, env } = await shellWith(context);
  const complete = (...words: string[]): string =>
    `COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}; _smolvm 2>/dev/null; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const script = [
    "source <(smolvm completion bash)",
    complete("smolvm", "image", "pu"),
    complete("smolvm", "run", "--network", "no"),
    complete("smolvm", "image", "import", "an"),
    complete("smolvm", "run", "--network", "=", "o"),
    complete("smolvm", "run", "--accel", "="),
    complete("smolvm", "run", "-p", "80", ":", "80", "--netw"),
    complete("smolvm", "image", "pull", "--registry", "=", "an"),
  ].join("\n");
  const { stdout } = await promisify(execFile)("bash", ["-c", script], { env, cwd: folder });
  assert.deepEqual(stdout.trim().split("\n"), [
    "pull",
    "none",
    "an image.smolvm",
    "open",
    ...["auto", "kvm", "hvf", "tcg"],
    "--network",
    "an image.smolvm",
  ]);
});

test("every shell's script is printed whole and asks smolvm for the words", async () => {
  for (const shell of SHELLS) {
    const { status, stdout } = await smolvm(["completion", shell]);
    assert.equal(status, 0);
    assert.match(stdout.toString(), /smolvm __complete/);
    assert.ok(!stdout.toString().includes("\\$"), shell);
  }
});
