import assert from "node:assert/strict";
import { test } from "node:test";

import type { Ext4Writer } from "../../../src/build/ext4/index.js";
import { ImageError, ValidationError } from "../../../src/errors.js";
import { check, debugfs, makeImage } from "./image.js";

const mode = 0o644;

const refused: readonly (readonly [
  what: string,
  act: (writer: Ext4Writer) => Promise<void> | void,
  message: RegExp,
])[] = [
  ["'..'", (writer) => writer.directory("/a/../b", { mode }), /'\/a\/\.\.\/b' has '\.\.' in it/],
  ["a NUL byte", (writer) => writer.directory("a\0b", { mode }), /NUL byte/],
  ["a name of 256 bytes", (writer) => writer.directory("ä".repeat(128), { mode }), /256 bytes.*the most is 255/],
  [
    "a file in place of lost+found",
    (writer) => writer.node("/lost+found", "fifo", { mode }),
    /'\/lost\+found' is there already/,
  ],
  ["a file twice", (writer) => twice(() => writer.node("/x", "fifo", { mode })), /'\/x' is there already/],
  ["a folder twice", (writer) => twice(() => writer.directory("/x", { mode })), /'\/x' is there already/],
  ["the root as a file", (writer) => writer.node("/", "fifo", { mode }), /'\/' is there already/],
  [
    "something below a file",
    (writer) => {
      writer.node("/file", "fifo", { mode });
      writer.node("/file/below", "fifo", { mode });
    },
    /'\/file\/below' is below 'file', which is no directory/,
  ],
  [
    "something below a symbolic link",
    async (writer) => {
      await writer.symlink("/link", "/", { mode });
      writer.node("/link/below", "fifo", { mode });
    },
    /is below 'link', which is no directory/,
  ],
  ["a hard link to nothing", (writer) => writer.link("/a", "/b"), /'\/a' is a hard link to '\/b', which is not there/],
  ["a hard link to a directory", (writer) => writer.link("/lost+found/again", "/lost+found"), /which is a directory/],
  ["an empty symbolic link", (writer) => writer.symlink("/a", "", { mode }), /symbolic link to nothing/],
  [
    "a symbolic link too long",
    (writer) => writer.symlink("/a", "x".repeat(4096), { mode }),
    /4096 bytes; the most is 4095/,
  ],
  ["a mode with a file type in it", (writer) => writer.directory("/a", { mode: 0o40755 }), /mode/],
  ["an owner below zero", (writer) => writer.directory("/a", { mode, uid: -1 }), /uid -1/],
  ["an owner beyond 32 bits", (writer) => writer.directory("/a", { mode, gid: 2 ** 32 }), /gid 4294967296/],
  ["a time beyond the format's end", (writer) => writer.directory("/a", { mode, mtime: 2 ** 34 }), /mtime/],
  ["a time that is no whole number", (writer) => writer.directory("/a", { mode, mtime: 0.5 }), /mtime 0\.5/],
  ["a device without numbers", (writer) => writer.node("/a", "block", { mode }), /device without numbers/],
  [
    "a device with a bad number",
    (writer) => writer.node("/a", "block", { mode }, { major: 4096, minor: 0 }),
    /major 4096/,
  ],
];

function twice(act: () => void): void {
  act();
  act();
}

for (const [what, act, message] of refused) {
  test(`${what} is refused with an error that names the path`, async (context) => {
    let failed: unknown;
    const image = await makeImage(context, async (writer) => {
      await writer.file("/before", { mode }, Buffer.from("x"));
      try {
        await act(writer);
      } catch (error) {
        failed = error;
      }
    });
    assert.ok(failed instanceof ImageError, String(failed));
    assert.equal(failed.code, "IMAGE_INVALID");
    assert.match(failed.message, message);
    // What was refused must not have left anything behind.
    const { status, output } = check(image);
    assert.equal(status, 0, output);
  });
}

test("options out of range are refused before anything is written", async (context) => {
  for (const options of [{ label: "x".repeat(17) }, { freeBytes: -1 }, { freeBytes: 1.5 }, { freeInodes: -1 }]) {
    await assert.rejects(
      makeImage(context, () => undefined, options),
      ValidationError,
    );
  }
});

test("names are bytes: what is no UTF-8, and what only looks the same, stay apart", async (context) => {
  const names = [
    Buffer.from([0xff, 0xfe]),
    Buffer.from("é"),
    Buffer.from("e\u0301"),
    Buffer.from("a\nb"),
    Buffer.from("-"),
  ];
  const image = await makeImage(context, (writer) => {
    for (const name of names) writer.node(name, "fifo", { mode });
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /é"), /FIFO/);
  assert.match(debugfs(image, "stat /e\u0301"), /FIFO/);
});

test("missing parents are made, and can be named once afterwards", async (context) => {
  const image = await makeImage(context, (writer) => {
    writer.node("/a/b/c", "fifo", { mode });
    writer.directory("./a//b/.", { mode: 0o700, uid: 9 });
    writer.directory("/lost+found", { mode: 0o700, mtime: 99 });
    assert.throws(() => writer.directory("/a/b", { mode }), ImageError);
  });
  assert.equal(check(image).status, 0);
  assert.match(debugfs(image, "stat /a"), /Mode: +0755/);
  assert.match(debugfs(image, "stat /a/b"), /Mode: +0700[^]*User: +9 /);
});
