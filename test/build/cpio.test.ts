import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { lstatSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { type CpioEntry, writeCpio } from "../../src/build/cpio.js";
import { ValidationError } from "../../src/errors.js";
import { requireTool } from "../../src/host/tools.js";

const tree: readonly CpioEntry[] = [
  { path: "/bin", type: "directory", mode: 0o755 },
  { path: "./bin/one", type: "file", mode: 0o4755, data: Buffer.from("x") },
  { path: "bin/two", type: "symlink", mode: 0o777, data: Buffer.from("one") },
  { path: "empty", type: "file", mode: 0o600 },
  { path: "größe", type: "file", mode: 0o644, data: Buffer.alloc(5000, 7), mtime: 86400 },
];

function unpack(archive: Buffer): { folder: string; status: number | null; stderr: string } {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-cpio-"));
  const result = spawnSync(requireTool("busybox"), ["cpio", "-idm"], { cwd: folder, input: archive, encoding: "utf8" });
  return { folder, status: result.status, stderr: result.stderr };
}

test("a written archive is unpacked by another cpio with names, modes, times, links and content", () => {
  const { folder, status, stderr } = unpack(writeCpio(tree));
  try {
    assert.equal(status, 0, stderr);
    assert.equal(readFileSync(join(folder, "bin/one"), "latin1"), "x");
    assert.equal(lstatSync(join(folder, "bin/one")).mode & 0o7777, 0o4755);
    assert.equal(readlinkSync(join(folder, "bin/two")), "one");
    assert.equal(lstatSync(join(folder, "empty")).size, 0);
    assert.deepEqual(readFileSync(join(folder, "größe")), Buffer.alloc(5000, 7));
    assert.equal(lstatSync(join(folder, "größe")).mtimeMs, 86400_000);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("the same entries give the same bytes, and the archive is padded so that another can follow", () => {
  const archive = writeCpio(tree);
  assert.deepEqual(archive, writeCpio(tree));
  assert.equal(archive.length % 512, 0);
});

test("a path that leaves the root or names nothing is refused", () => {
  for (const path of ["", "/", "../x", "a/../../x", "a\0b", "TRAILER!!!"]) {
    assert.throws(() => writeCpio([{ path, type: "file", mode: 0o644 }]), ValidationError, path);
  }
});

test("a number that the format can't hold is refused", () => {
  assert.throws(() => writeCpio([{ path: "a", type: "file", mode: 0o644, uid: 2 ** 32 }]), /4294967295/);
  assert.throws(() => writeCpio([{ path: "a", type: "file", mode: 0o644, mtime: -1 }]), ValidationError);
});
