import assert from "node:assert/strict";
import { lstat, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { after, before, test } from "node:test";

import { GuestFileError, HostError, ValidationError } from "../../src/errors.js";
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
  ino: 1,
  dev: 1,
  atimeMs: 0,
  mtimeMs: 0,
  ctimeMs: 0,
};

/** A guest that says of its files whatever it likes. */
function guest(answers: {
  readonly kindOf: (path: string) => FileKind;
  readonly list: (path: string) => GuestDirent[];
  readonly mode?: number;
  readonly size?: number;
  readonly content?: string;
}): GuestFiles {
  const stat = (path: string): Promise<GuestStat> =>
    Promise.resolve({ ...STAT, kind: answers.kindOf(path), mode: answers.mode ?? 0o644, size: answers.size ?? 4 });
  return {
    stat,
    lstat: stat,
    readdir: (path: string) => Promise.resolve(answers.list(path)),
    readlink: () => Promise.resolve("/etc/passwd"),
    // No more than was asked for, as the real one sees to.
    createReadStream: (_path: string, { length }: { length: number }) =>
      Readable.from([Buffer.from(answers.content ?? "evil").subarray(0, length)]),
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

test("a download brings no more than the guest said beforehand, and no more than it may", async () => {
  const target = join(folder, "bounded");
  const isTooLarge = (error: unknown): boolean =>
    error instanceof GuestFileError && error.code === "EFBIG" && error.hint !== undefined;
  const file = { kindOf: (): FileKind => "file", list: () => [] };
  // Files of /proc say that they have no size.
  await downloadTree(guest({ ...file, size: 0, content: "Linux" }), "/proc/version", target);
  assert.equal(await readFile(target, "utf8"), "Linux");

  const most = "x".repeat(16 * 1024 * 1024);
  await downloadTree(guest({ ...file, size: 0, content: most }), "/proc/most", target);
  await assert.rejects(
    downloadTree(guest({ ...file, size: 0, content: `${most}x` }), "/proc/more", target),
    isTooLarge,
  );
  assert.equal((await lstat(target)).size, most.length, "what is cut is not kept");

  const many = guest({
    kindOf: (path) => (path === "/d" ? "directory" : "file"),
    list: () => Array.from({ length: 10 }, (_, index) => entry(`f${index}`)),
  });
  await downloadTree(many, "/d", join(folder, "ten"), { maxEntries: 11, maxBytes: 40 });
  await assert.rejects(downloadTree(many, "/d", join(folder, "nine"), { maxEntries: 10 }), isTooLarge);
  const looks: string[] = [];
  const nested = guest({
    kindOf: (path) => {
      looks.push(path);
      return "directory";
    },
    list: () => Array.from({ length: 10 }, (_, index) => entry(`d${index}`, "directory")),
  });
  await assert.rejects(downloadTree(nested, "/d", join(folder, "nested"), { maxEntries: 25 }), isTooLarge);
  assert.ok(looks.length <= 25, `${looks.length} entries were looked at`);
  await assert.rejects(downloadTree(many, "/d", join(folder, "less"), { maxBytes: 39 }), isTooLarge);
});

test("names of the guest's are shown without what a terminal acts on", async () => {
  const evil = guest({
    kindOf: (path) => (path === "/d" ? "directory" : "file"),
    list: () => [entry("a/\x1b[2J\u202eb")],
  });
  await assert.rejects(downloadTree(evil, "/d", join(folder, "shown")), (error: unknown) => {
    assert.ok(error instanceof ValidationError);
    assert.doesNotMatch(error.message, /[\x1b\u202e]/);
    return true;
  });
  // In what the host's system says too, which has the path as it is.
  const name = `\x1b]0;pwned\x07\x1b[2J\u202e${"n".repeat(300)}`;
  const long = guest({ kindOf: (path) => (path === "/d" ? "directory" : "file"), list: () => [entry(name)] });
  await assert.rejects(downloadTree(long, "/d", join(folder, "shown")), (error: unknown) => {
    assert.ok(error instanceof HostError);
    assert.match(error.message, /ENAMETOOLONG.*pwned/);
    assert.doesNotMatch(error.message, /[\x00-\x1f\u202e]/);
    assert.ok((error.cause as Error).message.includes(name), "the cause is as it came");
    return true;
  });
  assert.doesNotMatch(new GuestFileError("EIO", "read", "/d/\x1b[2J\u202eb").message, /[\x1b\u202e]/);
});
