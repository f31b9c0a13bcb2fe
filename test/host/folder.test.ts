import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { makeFolder } from "../../src/host/folder.js";

function scratch(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-host-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test("a folder is made with those above it, and once more without harm", (t) => {
  const folder = join(scratch(t), "a", "b", "c");
  makeFolder(folder, { mode: 0o700 });
  makeFolder(folder, { mode: 0o700 });
  assert.equal(statSync(folder).mode & 0o777, 0o700);
});

test("a folder that can't be made is an error at once, with the system's reason", { timeout: 5_000 }, (t) => {
  const file = join(scratch(t), "file");
  writeFileSync(file, "");
  assert.throws(() => makeFolder(join(file, "below")), { code: "ENOTDIR" });
  // The kernel says ENOENT to whoever makes a folder there, which must not be taken for "its parent is missing".
  assert.throws(() => makeFolder("/proc/smolvm/images"), { code: "ENOENT", path: "/proc/smolvm" });
});
