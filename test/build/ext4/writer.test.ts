import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { test } from "node:test";

import { type Fill, MEBIBYTE, check, debugfs, makeImage, superblock } from "./image.js";

test("an empty file system is what e2fsck, debugfs and dumpe2fs call sound", async (context) => {
  const image = await makeImage(context, () => undefined, { label: "tiny", freeBytes: MEBIBYTE, freeInodes: 100 });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "ls -l /"), /lost\+found/);
  const facts = superblock(image);
  assert.equal(facts.get("Filesystem volume name"), "tiny");
  assert.equal(facts.get("Filesystem UUID"), image.uuid);
  assert.equal(facts.get("Filesystem state"), "clean");
});

test("owners, modes, times to the nanosecond, sizes and link counts read back", async (context) => {
  const image = await makeImage(context, async (writer) => {
    writer.directory("/", { mode: 0o711, uid: 1, gid: 2, mtime: 5 });
    writer.directory("/etc", { mode: 0o2750, uid: 70_000, gid: 80_000, mtime: 2 ** 33, mtimeNs: 123_456_789 });
    await writer.file("/etc/hello", { mode: 0o4755, mtime: -86_400 }, Buffer.from("hello world\n"));
    writer.link("/also", "/etc/hello");
    writer.link("/etc/too", "also");
  });
  assert.equal(check(image).status, 0);
  const root = debugfs(image, "stat /");
  assert.match(root, /Mode: +0711/);
  assert.match(root, /User: +1 +Group: +2 /);
  assert.match(root, /Links: 4 /);
  const etc = debugfs(image, "stat /etc");
  assert.match(etc, /Type: directory +Mode: +02750/);
  assert.match(etc, /User: 70000 +Group: 80000/);
  // debugfs shows the second word of each time raw: nanoseconds times four, and the two upper bits of the seconds.
  const extra = (123_456_789 * 4 + 2).toString(16);
  for (const time of ["ctime", "atime", "mtime", "crtime"])
    assert.match(etc, new RegExp(`\\b${time}: 0x00000000:${extra}`));
  const hello = debugfs(image, "stat /also");
  assert.match(hello, /Type: regular +Mode: +04755/);
  assert.match(hello, /Links: 3 +Blockcount: 8/);
  assert.match(hello, /Size: 12\n/);
  assert.match(hello, /mtime: 0xfffeae80:00000000/);
  assert.equal(debugfs(image, "cat /etc/too"), "hello world\n");
});

test("symbolic links of every length that is kept differently read back", async (context) => {
  const lengths = [1, 59, 60, 61, 4094, 4095];
  const target = (length: number): string => "t".repeat(length);
  const image = await makeImage(context, async (writer) => {
    for (const length of lengths) await writer.symlink(`/l${length}`, target(length), { mode: 0o777 });
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  for (const length of lengths) {
    const shown = debugfs(image, `stat /l${length}`);
    assert.match(shown, /Type: symlink/);
    assert.match(shown, new RegExp(`Size: ${length}\n`));
    if (length < 60) assert.match(shown, new RegExp(`Fast link dest: "${target(length)}"`));
    else assert.equal(debugfs(image, `cat /l${length}`), target(length));
  }
});

test("devices with small and with large numbers, fifos and sockets read back", async (context) => {
  const image = await makeImage(context, (writer) => {
    writer.node("/null", "character", { mode: 0o666 }, { major: 1, minor: 3 });
    writer.node("/large", "block", { mode: 0o660 }, { major: 259, minor: 70_000 });
    writer.node("/fifo", "fifo", { mode: 0o600 });
    writer.node("/socket", "socket", { mode: 0o700 });
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /null"), /Type: character special[^]*Device major\/minor number: 01:03/);
  assert.match(
    debugfs(image, "stat /large"),
    /Type: block special[^]*\(hex 103:11170\)|Device major\/minor number: 259:70000/,
  );
  assert.match(debugfs(image, "stat /fifo"), /Type: FIFO/);
  assert.match(debugfs(image, "stat /socket"), /Type: socket/);
});

test("content comes back whole, whatever the size of the chunks it came in", async (context) => {
  const size = 3 * 4096 + 777;
  const content = Buffer.from(Array.from({ length: size }, (_, index) => (index * 7 + (index >> 8)) & 0xff));
  const chunkSizes = [1, 511, 4095, 4096, 4097, 9000, size];
  const image = await makeImage(context, async (writer) => {
    for (const chunkSize of chunkSizes) {
      const chunks: Buffer[] = [];
      for (let at = 0; at < size; at += chunkSize) chunks.push(content.subarray(at, at + chunkSize));
      await writer.file(`/c${chunkSize}`, { mode: 0o644 }, chunks);
    }
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  for (const chunkSize of chunkSizes) assert.equal(digestInImage(image, `/c${chunkSize}`), sha256(content));
});

test("blocks of zeros take no room, in the image or on the disk it is on", async (context) => {
  const hole = 64 * MEBIBYTE;
  const image = await makeImage(context, async (writer) => {
    await writer.file("/holes", { mode: 0o644 }, [Buffer.alloc(4096, 1), Buffer.alloc(hole), Buffer.from("end")]);
    await writer.file("/nothing", { mode: 0o644 }, [Buffer.alloc(5000)]);
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /holes"), /Blockcount: 16\n/); // two blocks of 8 sectors
  assert.match(debugfs(image, "stat /nothing"), /Blockcount: 0\n[^]*/);
  assert.match(debugfs(image, "stat /nothing"), /Size: 5000\n/);
  assert.ok(statSync(image.path).blocks * 512 < 512 * 1024, `${statSync(image.path).blocks * 512} bytes allocated`);
});

test("a file with more runs than its inode holds gets a tree of extents, of two levels if need be", async (context) => {
  const pieces = [5, 340 * 4 + 1];
  const image = await makeImage(context, async (writer) => {
    for (const count of pieces) {
      const chunk = Buffer.alloc(8192);
      chunk[0] = 1;
      await writer.file(`/f${count}`, { mode: 0o644 }, Array<Buffer>(count).fill(chunk));
    }
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /f5"), /\(ETB0\)/); // one block of the tree
  assert.match(debugfs(image, "dump_extents /f1361"), /^ *0\/ 2/m); // "level 0 of 2"
});

test("a file beyond 4 GiB keeps its size and its last bytes", async (context) => {
  const zeros = Buffer.alloc(16 * MEBIBYTE);
  const image = await makeImage(context, async (writer) => {
    function* content(): Generator<Buffer> {
      yield Buffer.from("start");
      for (let at = 0; at < 260; at++) yield zeros;
      yield Buffer.from("end");
    }
    await writer.file("/huge", { mode: 0o644 }, content());
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /huge"), new RegExp(`Size: ${260 * 16 * MEBIBYTE + 8}\n`));
  assert.match(debugfs(image, "stat /huge"), /Blockcount: 16\n/);
});

test("files that go on over a copy of the superblock pass e2fsck, and each copy can stand in for the first", async (context) => {
  const content = Buffer.alloc(MEBIBYTE, 0x5a);
  const image = await makeImage(
    context,
    async (writer) => {
      for (let index = 0; index < 3; index++)
        await writer.file(`/f${index}`, { mode: 0o644 }, Array<Buffer>(60).fill(content));
    },
    { freeBytes: 300 * MEBIBYTE },
  );
  for (const options of [[], ["-b", "32768", "-B", "4096"], ["-b", "98304", "-B", "4096"]]) {
    const { status, output } = check(image, options);
    // Started from a copy, e2fsck notes that the first one says something else about free blocks; it must find nothing else.
    assert.ok(status === 0, `${options.join(" ")}: ${output}`);
  }
});

test("the room and the number of files asked for are there", async (context) => {
  const image = await makeImage(context, () => undefined, { freeBytes: 600 * MEBIBYTE, freeInodes: 50_000 });
  assert.equal(check(image).status, 0);
  const facts = superblock(image);
  assert.ok(Number(facts.get("Free blocks")) >= 600 * 256);
  assert.ok(Number(facts.get("Free blocks")) < 610 * 256);
  assert.ok(Number(facts.get("Free inodes")) >= 50_000);
});

test("room for 200 GiB costs next to nothing, and more than 256 GiB is refused", async (context) => {
  const gibibyte = 1024 * MEBIBYTE;
  const image = await makeImage(context, () => undefined, { freeBytes: 200 * gibibyte, freeInodes: 1000 });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.ok(statSync(image.path).blocks * 512 < 20 * MEBIBYTE);
  await assert.rejects(
    makeImage(context, () => undefined, { freeBytes: 256 * gibibyte }),
    /larger than 256 GiB/,
  );
});

test("without a journal there is none, and e2fsck agrees", async (context) => {
  const image = await makeImage(context, () => undefined, { journal: false, freeBytes: MEBIBYTE });
  assert.equal(check(image).status, 0);
  assert.doesNotMatch(superblock(image).get("Filesystem features") ?? "", /has_journal/);
});

test("what is removed again leaves its room and its name to others", async (context) => {
  const image = await makeImage(context, async (writer) => {
    await writer.file("/a/b/gone", { mode: 0o644 }, Buffer.alloc(MEBIBYTE, 1));
    await writer.file("/a/kept", { mode: 0o644 }, Buffer.from("kept"));
    writer.link("/other", "/a/kept");
    assert.equal(writer.remove("/a"), true);
    assert.equal(writer.remove("/a"), false);
    await writer.file("/a", { mode: 0o644 }, Buffer.from("a file now"));
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.equal(debugfs(image, "cat /a"), "a file now");
  assert.equal(debugfs(image, "cat /other"), "kept");
  assert.match(debugfs(image, "stat /other"), /Links: 1 /);
});

test("the same calls give the same bytes, and any difference another identity", async (context) => {
  const fill =
    (content: string, mtime = 7): Fill =>
    async (writer) => {
      for (let index = 0; index < 500; index++)
        await writer.file(`/d/${index}`, { mode: 0o644, mtime }, Buffer.from(content));
      await writer.symlink("/s", "d/1", { mode: 0o777 });
    };
  const first = await makeImage(context, fill("same"));
  const second = await makeImage(context, fill("same"));
  assert.equal(sha256(readFileSync(first.path)), sha256(readFileSync(second.path)));
  const uuids = [first, await makeImage(context, fill("other")), await makeImage(context, fill("same", 8))].map(
    ({ uuid }) => uuid,
  );
  assert.equal(new Set(uuids).size, 3);
});

function sha256(data: Buffer): string {
  return createHash("sha256").update(data).digest("hex");
}

function digestInImage(image: { readonly path: string }, path: string): string {
  const copy = `${image.path}.copy`;
  debugfs(image, `dump ${path} ${copy}`);
  return sha256(readFileSync(copy));
}
