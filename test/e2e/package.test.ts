import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { machineHome } from "../cli/machines.js";
import { packageRoot, packageVersion } from "../../src/host/package.js";

/* The other tests run the modules one by one; the package's own program is made of bundles of them. */
test("the program that the package ships looks things up and runs a command in a machine", async (context) => {
  const { env, machines } = await machineHome(context);
  const program = join(packageRoot(), "dist", "cli", "smolvm.cjs");
  const run = async (...args: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)(process.execPath, [program, ...args], {
      env: { ...process.env, ...env },
    });
    return stdout;
  };
  assert.equal(await run("--version"), `${packageVersion()}\n`);
  assert.match(await run("image", "ls"), /^default +✓/m);
  assert.equal(await run("run", "--", "echo", "shipped"), "shipped\n");
  assert.match(await run("image", "verify", "default"), /default/);
  assert.deepEqual(await machines(), []);
});
