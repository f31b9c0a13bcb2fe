import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { packageRoot } from "../../src/host/package.js";
import { ImageManager, SmolVM, ValidationError } from "../../src/index.js";

const page = await readFile(join(packageRoot(), "docs", "sdk.md"), "utf8");

function assertNamed(names: readonly string[], owner: string): void {
  const missing = names.filter((name) => !new RegExp(`\\b${name}\\b`).test(page));
  assert.deepEqual(missing, [], `docs/sdk.md lacks of ${owner}`);
}

const methodsOf = ({ prototype }: { readonly prototype: unknown }): string[] =>
  Object.getOwnPropertyNames(prototype ?? {}).filter((name) => name !== "constructor");

/** The options that a call knows are those that it names when it is given another. */
async function optionsOf(call: (options: object) => unknown): Promise<readonly string[]> {
  try {
    await call({ nothingOfThatName: 1 });
  } catch (error) {
    if (error instanceof ValidationError) return allowedOf(error);
    throw error;
  }
  return assert.fail("it takes any option");
}

function allowedOf({ details }: ValidationError): readonly string[] {
  const { allowed } = details;
  assert.ok(Array.isArray(allowed) && allowed.length > 0);
  return allowed.map(String);
}

test("the guide names every call of the library", () => {
  const vm = new SmolVM();
  assertNamed(methodsOf(SmolVM), "SmolVM");
  assertNamed(methodsOf(vm.files.constructor), "vm.files");
  assertNamed(methodsOf(ImageManager), "ImageManager");
  assertNamed(["create", "fromId", "list"], "SmolVM");
});

test("the guide names every option of a machine and of a command", async () => {
  const vm = new SmolVM();
  assertNamed(await optionsOf((options) => new SmolVM(options)), "the options of a machine");
  assertNamed(await optionsOf((options) => vm.start(options)), "the options of start()");
  assertNamed(await optionsOf((options) => vm.run("true", options)), "the options of run()");
  assertNamed(await optionsOf((options) => vm.spawn("true", options)), "the options of spawn()");
});
