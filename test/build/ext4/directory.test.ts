import assert from "node:assert/strict";
import { test } from "node:test";

import { nameHash } from "../../../src/build/ext4/name-hash.js";
import { check, debugfs, makeImage } from "./image.js";

const mode = 0o644;

test("names hash as debugfs hashes them (its algorithm 4: half MD4, unsigned), with any seed, of any length and any bytes", async (context) => {
  const image = await makeImage(context, () => undefined);
  const seeds = [
    { uuid: "01000000-0000-0000-0000-000000000000", words: [1, 0, 0, 0] },
    { uuid: "78563412-f0de-bc9a-efbe-adde01000080", words: [0x12345678, 0x9abcdef0, 0xdeadbeef, 0x80000001] },
  ] as const;
  const names = ["a", "hello", "x".repeat(31), "y".repeat(32), "z".repeat(33), "ö".repeat(100), "w".repeat(255)];
  for (const { uuid, words } of seeds) {
    for (const name of names) {
      const shown = debugfs(image, `dx_hash -h 4 -s ${uuid} ${name}`);
      const expected = /Hash of .* is (0x[0-9a-f]+)/.exec(shown)?.[1];
      assert.equal(`0x${nameHash(Buffer.from(name), words).toString(16)}`, expected, shown);
    }
  }
});

test("a directory of 10 000 entries is indexed, and e2fsck finds every name where its hash says", async (context) => {
  const image = await makeImage(context, (writer) => {
    for (let index = 0; index < 10_000; index++) writer.node(`/many/entry number ${index}`, "fifo", { mode });
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(output, /10012\/\d+ files/); // 10 000, the folder, lost+found, and the ten that are reserved
  assert.match(debugfs(image, "stat /many"), /Flags: 0x81000/);
  assert.match(debugfs(image, "htree_dump /many"), /Indirect levels: 0/);
  assert.match(debugfs(image, 'stat "/many/entry number 9999"'), /Type: FIFO/);
});

test("a directory that is too large for one level of index gets two", async (context) => {
  const image = await makeImage(context, async (writer) => {
    await writer.file("/target", { mode }, Buffer.from("x"));
    // Names of the greatest length: 15 a block, so that 8000 of them need more blocks than one level can name.
    for (let index = 0; index < 8000; index++) writer.link(`/many/${String(index).padStart(255, "n")}`, "/target");
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "htree_dump /many"), /Indirect levels: 1/);
});

test("a directory that just fits one block stays without an index, one entry more gets it", async (context) => {
  // "." and ".." take 12 bytes each, each of these names 16, the checksum 12 at the end.
  const fits = Math.floor((4096 - 12 - 24) / 16);
  const image = await makeImage(context, (writer) => {
    for (let index = 0; index < fits + 1; index++) {
      if (index < fits) writer.node(`/one/${String(index).padStart(8, "0")}`, "fifo", { mode });
      writer.node(`/more/${String(index).padStart(8, "0")}`, "fifo", { mode });
    }
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /one"), /Flags: 0x80000\n[^]*Size: 4096\n/);
  assert.match(debugfs(image, "stat /more"), /Flags: 0x81000\n/);
});

test("folders within folders, a thousand deep, count their links right", async (context) => {
  const image = await makeImage(context, (writer) => {
    let path = "";
    for (let depth = 0; depth < 1000; depth++) {
      path += `/${depth}`;
      writer.directory(path, { mode: 0o755 });
      writer.directory(`/wide/${depth}`, { mode: 0o755 });
    }
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "stat /wide"), /Links: 1002 /);
});
