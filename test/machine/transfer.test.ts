import assert from "node:assert/strict";
import { lstat, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { after, before, test } from "node:test";

import { ValidationError } from "../../src/errors.js";
import type { FileKind, GuestDirent, GuestFiles, GuestStat } from "../../src/guest/index.js";
import { downloadTree } from "../../src/machine/transfer.js";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-transfer-"));
});
after(() => rm(folder, { recursive: true, force: true }));

const STAT: GuestStat = {
  kind: "file",
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: 4,
  nlink: 1,
  ino: 1n,
  dev: 1n,
  atimeMs: 0,
  mtimeMs: 0,
  ctimeMs: 0,
};

/** A guest that says of its files whatever it likes. */
function guest(answers: {
  readonly kindOf: (path: string) => FileKind;
  readonly list: (path: string) => GuestDirent[];
  readonly mode?: number;
}): GuestFiles {
  const stat = (path: string): Promise<GuestStat> =>
    Promise.resolve({ ...STAT, kind: answers.kindOf(path), mode: answers.mode ?? 0o644 });
  return {
    stat,
    lstat: stat,
    readdir: (path: string) => Promise.resolve(answers.list(path)),
    readlink: () => Promise.resolve("/etc/passwd"),
    createReadStream: () => Readable.from([Buffer.from("evil")]),
  } as unknown as GuestFiles;
}

const entry = (name: string, kind: FileKind = "file"): GuestDirent => ({ name, kind });

test("names that would lead out of the target are refused before anything is written", async () => {
  for (const name of ["..", ".", "", "../escape", "/etc/escape", "a/b", "nul\0byte"]) {
    const target = join(folder, "names");
    const evil = guest({ kindOf: (path) => (path === "/d" ? "directory" : "file"), list: () => [entry(name)] });
    await assert.rejects(downloadTree(evil, "/d", target), ValidationError, JSON.stringify(name));
    assert.deepEqual(await readdir(target), []);
  }
  assert.deepEqual(await readdir(folder), ["names"]);
});

test("a name that is first a link and then a folder does not make a way out", async () => {
  const target = join(folder, "twice");
  let looks = 0;
  const evil = guest({
    kindOf: (path) =>
      path === "/d" ? "directory" : basename(path) === "x" ? (looks++ === 0 ? "symlink" : "directory") : "file",
    list: (path) => (path === "/d" ? [entry("x", "symlink"), entry("x", "directory")] : [entry("gotcha")]),
  });
  await downloadTree(evil, "/d", target);
  assert.ok((await lstat(join(target, "x"))).isSymbolicLink());
  assert.deepEqual(await readdir(target), ["x"]);
  // And once it is there, a folder of that name is refused, not entered.
  const later = guest({
    kindOf: (path) => (basename(path) === "gotcha" ? "file" : "directory"),
    list: (path) => (path === "/d" ? [entry("x")] : [entry("gotcha")]),
  });
  await assert.rejects(downloadTree(later, "/d", target), /Copying to or from/);
});

test("folders without end come to an end", async () => {
  const evil = guest({ kindOf: () => "directory", list: () => [entry("d", "directory")] });
  await assert.rejects(downloadTree(evil, "/d", join(folder, "deep")), /nested more than 256|ENAMETOOLONG/);
});

test("a file keeps its permissions without the bits that give rights, and leaves nothing half-written", async () => {
  const target = join(folder, "one");
  await downloadTree(guest({ kindOf: () => "file", list: () => [], mode: 0o6755 }), "/f", target);
  assert.equal((await lstat(target)).mode & 0o7777, 0o755);
  assert.equal(await readFile(target, "utf8"), "evil");
  const breaking = {
    ...guest({ kindOf: () => "file", list: () => [] }),
    createReadStream: () =>
      Readable.from(
        (function* () {
          yield Buffer.from("half");
          throw new Error("the guest hung up");
        })(),
      ),
  };
  await assert.rejects(downloadTree(breaking, "/f", target), /the guest hung up/);
  assert.equal(await readFile(target, "utf8"), "evil");
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith(".smolvm")),
    [],
  );
});
