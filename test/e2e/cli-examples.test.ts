import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { commandNamed } from "../../src/cli/commands.js";
import { machineHome } from "../cli/machines.js";
import { BIN, environment, onTerminal, smolvm } from "../cli/smolvm.js";

/* The examples of the helps are typed as they stand there, one after the other, in a folder that has what they name. */

async function player(context: TestContext) {
  const { env, folder: home } = await machineHome(context);
  const [bin, folder] = [join(home, "bin"), join(home, "work")];
  await Promise.all([mkdir(bin), mkdir(folder)]);
  await writeFile(join(bin, "smolvm"), `#!/bin/sh\nexec "${process.execPath}" "${BIN}" "$@"\n`);
  await chmod(join(bin, "smolvm"), 0o755);
  const variables = environment({ ...env, PATH: `${bin}:${process.env["PATH"] ?? ""}` });

  /** Types a line, and gives what it prints. */
  const type = async (line: string): Promise<string> => {
    const shell = spawn("bash", ["-o", "pipefail", "-c", line], { env: variables, cwd: folder, stdio: "pipe" });
    shell.stdin.end();
    let output = "";
    for (const stream of [shell.stdout, shell.stderr])
      stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const [status] = (await once(shell, "close")) as [number | null];
    assert.equal(status, 0, `$ ${line}\n${output}`);
    return output;
  };
  return { env, folder, type };
}

async function examplesOf(name: string): Promise<readonly string[]> {
  return (await commandNamed(name)).examples ?? [];
}

test("the examples of create are a machine's life, from its making to its end", async (context) => {
  const { env, type } = await player(context);
  for (const example of await examplesOf("create")) await type(example);
  assert.equal((await smolvm(["ls", "--quiet"], { env })).stdout.toString(), "");
});

test("the examples of run run", async (context) => {
  const { env, folder, type } = await player(context);
  await mkdir(join(folder, "job"));
  await writeFile(join(folder, "job", "run.sh"), "echo the job\n");
  const printed = new Map<string, string>();
  for (const example of await examplesOf("run")) {
    if (!example.includes(" -it ")) {
      printed.set(example, await type(example));
      continue;
    }
    const words = example.split(" ").slice(1);
    const played = await onTerminal(
      words,
      [["raw"], ["send", "echo $((40 + 2))\r"], ["expect", "42"], ["send", "exit\r"]],
      {
        env,
      },
    );
    assert.deepEqual([played.failed, played.status], [null, 0], played.output);
  }
  const all = [...printed.values()].join("");
  assert.match(all, /Linux/);
  assert.match(all, /^the job$/m);
  assert.match(all, /^HELLO$/m);
});

test("the examples of exec, cp, port and logs do what they say", async (context) => {
  const { folder, type } = await player(context);
  await mkdir(join(folder, "src"));
  await writeFile(join(folder, "src", "main.c"), "int main;\n");
  await type("smolvm create --name box");
  await type("smolvm exec box -- mkdir /job");
  for (const example of await examplesOf("exec")) await type(example);
  await type("smolvm exec box -- 'test -f /job/src/main.c && rm -r /job'");

  for (const example of (await examplesOf("cp")).slice(0, 1)) await type(example);
  await type("smolvm exec box -- 'test -f /job/main.c && tar c -f /job/out.tar -C /job main.c'");
  const copies: string[] = [];
  for (const example of (await examplesOf("cp")).slice(1)) copies.push(await type(example));
  assert.ok((await stat(join(folder, "out.tar"))).size > 0);
  assert.equal(await type("smolvm exec box -- cat /job/begun | wc -l"), "1\n");
  assert.equal(copies.at(-1), await readGuest("/etc/hostname"));

  // A port of this host that nobody else has stands in for the one of the examples.
  const port = (await type("smolvm port box 80")).split(":")[0] ?? "";
  await type(`smolvm port box --remove ${port}`);
  for (const example of await examplesOf("port")) await type(example.replace("8080", port));
  assert.equal(await type("smolvm port box"), "");
  for (const example of await examplesOf("logs")) assert.match(await type(example), /\S/);

  async function readGuest(path: string): Promise<string> {
    await type(`smolvm cp box:${path} ./read`);
    return readFile(join(folder, "read"), "utf8");
  }
});
