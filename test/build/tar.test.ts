import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, linkSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";

import fc from "fast-check";

import { readTar, type TarEntry } from "../../src/build/tar.js";
import { ImageError } from "../../src/errors.js";

interface ReadEntry extends Omit<TarEntry, "content" | "path" | "target"> {
  readonly path: string;
  readonly target: string;
  readonly content: Buffer;
}

/** Everything in an archive that arrives in chunks of that size. */
async function read(archive: Buffer, chunkSize = 65536): Promise<ReadEntry[]> {
  const entries: ReadEntry[] = [];
  for await (const entry of readTar(chunks(archive, chunkSize))) {
    const parts: Buffer[] = [];
    for await (const part of entry.content) parts.push(Buffer.from(part));
    entries.push({
      ...entry,
      path: entry.path.toString(),
      target: entry.target.toString(),
      content: Buffer.concat(parts),
    });
  }
  return entries;
}

async function* chunks(data: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += size) yield await Promise.resolve(data.subarray(at, at + size));
}

function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-tar-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function tar(folder: string, ...args: readonly string[]): Buffer {
  return execFileSync("tar", ["-C", folder, "-cf", "-", "--sort=name", ...args, "."], { maxBuffer: 64 * 1024 * 1024 });
}

for (const format of ["gnu", "posix", "ustar", "oldgnu"]) {
  test(`what GNU tar writes as ${format} is read with names, modes, times, links and content`, async (context) => {
    const folder = temporaryFolder(context);
    const long = format === "ustar" ? join("d".repeat(90), "f".repeat(90)) : join("d".repeat(120), "f".repeat(200));
    mkdirSync(join(folder, "d".repeat(format === "ustar" ? 90 : 120)));
    writeFileSync(join(folder, long), "long name");
    writeFileSync(join(folder, "größe"), Buffer.alloc(100_000, 5));
    writeFileSync(join(folder, "empty"), "");
    chmodSync(join(folder, "empty"), 0o4711);
    utimesSync(join(folder, "empty"), 1_234_567_890.5, 1_234_567_890.5);
    symlinkSync("l".repeat(format === "ustar" ? 99 : 300), join(folder, "symlink"));
    linkSync(join(folder, "größe"), join(folder, "zz-hardlink"));
    const archive = tar(folder, `--format=${format}`, "--owner=u:70000", "--group=g:80000");
    for (const chunkSize of [7, 511, 512, 513, 65536]) {
      const entries = new Map((await read(archive, chunkSize)).map((entry) => [entry.path, entry]));
      const get = (path: string): ReadEntry =>
        entries.get(`./${path}`) ?? assert.fail(`no ${path} in ${[...entries.keys()].join(", ")}`);
      assert.equal(get(long).content.toString(), "long name");
      assert.deepEqual(get("größe").content, Buffer.alloc(100_000, 5));
      assert.equal(get("empty").mode, 0o4711);
      assert.equal(get("empty").mtime, 1_234_567_890);
      assert.equal(get("empty").mtimeNs, format === "posix" ? 500_000_000 : 0);
      assert.deepEqual([get("empty").uid, get("empty").gid], [70_000, 80_000]);
      assert.equal(get("symlink").type, "symlink");
      assert.equal(get("symlink").target.length, format === "ustar" ? 99 : 300);
      assert.equal(get("zz-hardlink").type, "link");
      assert.equal(get("zz-hardlink").target, "./größe");
      assert.equal(entries.get(".")?.type, "directory");
    }
  });
}

test("an entry whose content nobody reads is stepped over", async (context) => {
  const folder = temporaryFolder(context);
  for (const name of ["a", "b", "c"]) writeFileSync(join(folder, name), Buffer.alloc(10_000, name));
  const seen: string[] = [];
  for await (const { path, content } of readTar(chunks(tar(folder), 700))) {
    seen.push(path.toString());
    if (path.toString() !== "./b") continue;
    for await (const part of content) {
      assert.equal(part[0], 0x62);
      break; // in the middle of it
    }
  }
  assert.deepEqual(seen, [".", "./a", "./b", "./c"]);
});

test("extended attributes and times before 1970 come out of PAX headers", async () => {
  const archive = archiveOf([
    {
      kind: "x",
      name: "pax",
      data: pax({ "SCHILY.xattr.user.a": "b=c\nd", mtime: "-1.25", path: "renamed", size: "3" }),
    },
    { kind: "0", name: "short", data: Buffer.from("abc") },
    { kind: "0", name: "next", data: Buffer.alloc(0) },
  ]);
  const [first, second] = await read(archive);
  assert.equal(first?.path, "renamed");
  assert.equal(first.xattrs.get("user.a")?.toString(), "b=c\nd");
  assert.deepEqual([first.mtime, first.mtimeNs], [-2, 750_000_000]);
  assert.equal(second?.path, "next");
  assert.equal(second.xattrs.size, 0);
});

test("global PAX headers hold for all that follow, until their own values override them", async () => {
  const archive = archiveOf([
    { kind: "g", name: "g", data: pax({ uid: "5", "SCHILY.xattr.user.x": "1" }) },
    { kind: "0", name: "a", data: Buffer.alloc(0) },
    { kind: "x", name: "x", data: pax({ uid: "6" }) },
    { kind: "0", name: "b", data: Buffer.alloc(0) },
  ]);
  assert.deepEqual(
    (await read(archive)).map(({ path, uid, xattrs }) => [path, uid, xattrs.size]),
    [
      ["a", 5, 1],
      ["b", 6, 1],
    ],
  );
});

const damaged: readonly (readonly [what: string, archive: () => Buffer])[] = [
  ["no archive at all", () => Buffer.alloc(2048, "x")],
  ["nothing", () => Buffer.alloc(0)],
  ["half a header", () => Buffer.alloc(300)],
  ["an archive cut in a file", () => archiveOf([{ kind: "0", name: "a", data: Buffer.alloc(5000) }]).subarray(0, 3000)],
  [
    "an archive without its end mark",
    () => archiveOf([{ kind: "0", name: "a", data: Buffer.alloc(512) }]).subarray(0, 1024),
  ],
  [
    "a PAX record that says it is longer than it is",
    () => archiveOf([{ kind: "x", name: "x", data: Buffer.from("99 path=a\n") }]),
  ],
  ["a PAX record without a length", () => archiveOf([{ kind: "x", name: "x", data: Buffer.from("path=a\n") }])],
  [
    "a PAX size that is no number",
    () =>
      archiveOf([
        { kind: "x", name: "x", data: pax({ size: "-5" }) },
        { kind: "0", name: "a", data: Buffer.alloc(0) },
      ]),
  ],
  ["a PAX header beyond bounds", () => archiveOf([{ kind: "x", name: "x", data: Buffer.alloc(2 * 1024 * 1024, "x") }])],
  [
    "a file with many PAX headers, beyond bounds together",
    () => {
      const many = Array.from({ length: 30 }, (_, at) => pax({ [`SCHILY.xattr.user.${at}`]: "x".repeat(60_000) }));
      return archiveOf([
        ...many.map((data) => ({ kind: "x", name: "x", data })),
        { kind: "0", name: "a", data: Buffer.alloc(0) },
      ]);
    },
  ],
  ["a GNU sparse file", () => archiveOf([{ kind: "S", name: "s", data: Buffer.alloc(0) }])],
  [
    "a PAX sparse file",
    () =>
      archiveOf([
        { kind: "x", name: "x", data: pax({ "GNU.sparse.major": "1" }) },
        { kind: "0", name: "a", data: Buffer.alloc(0) },
      ]),
  ],
  ["an unknown kind of entry", () => archiveOf([{ kind: "Q", name: "q", data: Buffer.alloc(0) }])],
  ["a size with letters in it", () => archiveOf([{ kind: "0", name: "a", data: Buffer.alloc(0), size: "zzzz" }])],
];
for (const [what, archive] of damaged) {
  test(`${what} is an ImageError`, async () => {
    await assert.rejects(read(archive()), (error) => error instanceof ImageError && error.code === "IMAGE_INVALID");
  });
}

test("mutated archives never end in anything but entries or an ImageError", async (context) => {
  const folder = temporaryFolder(context);
  writeFileSync(join(folder, "n".repeat(150)), Buffer.alloc(2000, 3));
  symlinkSync("t".repeat(150), join(folder, "link"));
  const archives = [tar(folder, "--format=gnu"), tar(folder, "--format=posix")];
  let sound = 0;
  let broken = 0;
  const mutation = fc.tuple(fc.nat(12_000), fc.nat(255));
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...archives),
      fc.array(mutation, { minLength: 1, maxLength: 6 }),
      async (archive, mutations) => {
        const copy = Buffer.from(archive);
        for (const [at, value] of mutations) copy[at % copy.length] = value;
        try {
          const entries = await read(copy, 4096);
          for (const { size, mtime, uid } of entries) assert.ok([size, mtime, uid].every(Number.isSafeInteger));
          sound += 1;
        } catch (error) {
          assert.ok(error instanceof ImageError, String(error));
          broken += 1;
        }
      },
    ),
    { numRuns: 3000 },
  );
  console.log(`${sound} mutated archives read, ${broken} refused`);
});

function pax(records: Readonly<Record<string, string>>): Buffer {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = Buffer.byteLength(` ${key}=${value}\n`);
    let length = rest + 1;
    while (String(length).length + rest !== length) length += 1;
    return `${length} ${key}=${value}\n`;
  });
  return Buffer.from(lines.join(""));
}

interface Raw {
  readonly kind: string;
  readonly name: string;
  readonly data: Buffer;
  readonly size?: string;
}

/** An archive made by hand, for what tar itself would not write. */
function archiveOf(entries: readonly Raw[]): Buffer {
  const parts = entries.flatMap(({ kind, name, data, size }) => {
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write("0000644\0", 100);
    header.write("0000000\0", 108);
    header.write("0000000\0", 116);
    header.write(size ?? data.length.toString(8).padStart(11, "0"), 124);
    header.write("00000000000\0", 136);
    header.write("        ", 148);
    header.write(kind, 156);
    header.write("ustar\x0000", 257);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
