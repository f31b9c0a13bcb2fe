import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";

import { packageRoot } from "../../src/host/package.js";
import { smolvm, temporaryFolder } from "./smolvm.js";

/** The default image is made once and used by every test that boots a machine. */
const IMAGES = join(packageRoot(), "build", "test-images");

export interface MachineHome {
  readonly env: Readonly<Record<string, string>>;
  readonly folder: string;
  /** What is there of machines, running or not: a folder for each. */
  readonly machines: () => Promise<string[]>;
}

/** A home of its own for machines. Those that the test leaves are removed with it. */
export async function machineHome(context: TestContext): Promise<MachineHome> {
  let removeMachines = (): Promise<void> => Promise.resolve();
  // Asked for before the folder is: the hooks run in this order, and a machine without its folder can't be found any more.
  context.after(() => removeMachines());
  const folder = await temporaryFolder(context);
  const env = { SMOLVM_HOME: folder, SMOLVM_IMAGE_DIR: IMAGES };
  // A lock that a command left as it ended has a name with a dot; the next command that looks clears it away.
  const machines = async (): Promise<string[]> =>
    (await readdir(join(folder, "machines")).catch(() => [])).filter((name) => !name.startsWith("."));
  removeMachines = async () => {
    const left = await machines();
    if (left.length > 0) await smolvm(["rm", "--force", ...left], { env });
  };
  const made = await smolvm(["image", "pull", "default"], { env });
  assert.equal(made.status, 0, made.stderr);
  return { env, folder, machines };
}
