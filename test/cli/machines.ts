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

/** A home of its own for machines, which must be empty when the test has ended. */
export async function machineHome(context: TestContext): Promise<MachineHome> {
  const folder = await temporaryFolder(context);
  const env = { SMOLVM_HOME: folder, SMOLVM_IMAGE_DIR: IMAGES };
  const machines = (): Promise<string[]> => readdir(join(folder, "machines")).catch(() => []);
  const made = await smolvm(["image", "pull", "default"], { env });
  assert.equal(made.status, 0, made.stderr);
  return { env, folder, machines };
}
