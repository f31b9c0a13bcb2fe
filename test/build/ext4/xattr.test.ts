import assert from "node:assert/strict";
import { test } from "node:test";

import { ImageError } from "../../../src/errors.js";
import { check, debugfs, makeImage } from "./image.js";

const mode = 0o755;
const capability = Buffer.from("0100000200200000000000000000000000000000", "hex");

test("a file capability is kept in the inode and reads back", async (context) => {
  const image = await makeImage(context, async (writer) => {
    await writer.file("/ping", { mode, xattrs: new Map([["security.capability", capability]]) }, Buffer.from("x"));
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.match(debugfs(image, "ea_list /ping"), /security\.capability \(20\) = 01 00 00 02 00 20/);
  assert.match(debugfs(image, "stat /ping"), /File ACL: 0\n/);
});

test("attributes that don't fit the inode get a block, in the order that readers search", async (context) => {
  const values = new Map([
    ["user.zz", Buffer.alloc(1000, "z")],
    ["user.a", Buffer.from("short")],
    ["user.empty", Buffer.alloc(0)],
    ["security.selinux", Buffer.from("system_u:object_r:bin_t:s0\0")],
    ["trusted.overlay.opaque", Buffer.from("y")],
    [`user.${"n".repeat(250)}`, Buffer.from("long name")],
  ]);
  const image = await makeImage(context, async (writer) => {
    await writer.file("/file", { mode, xattrs: values }, Buffer.from("x"));
    writer.directory("/folder", { mode, xattrs: values });
    await writer.symlink("/link", "file", { mode, xattrs: new Map([["trusted.x", Buffer.alloc(500, 1)]]) });
    writer.node("/fifo", "fifo", { mode, xattrs: new Map([["security.x", Buffer.alloc(500, 1)]]) });
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  for (const path of ["/file", "/folder"]) {
    for (const [name, value] of values) {
      assert.match(
        debugfs(image, `ea_list ${path}`),
        new RegExp(`${name.replaceAll(".", "\\.")} \\(${value.length}\\)`),
      );
    }
    assert.equal(debugfs(image, `ea_get -V ${path} user.zz`).trim(), "z".repeat(1000));
  }
});

test("access lists are kept in the form that ext4 has for them", async (context) => {
  // Version 2: user::rwx, user:1000:r--, group::r-x, mask::r-x, other::---
  const list = Buffer.from(
    "02000000" + "01000700ffffffff" + "02000400e8030000" + "04000500ffffffff" + "10000500ffffffff" + "20000000ffffffff",
    "hex",
  );
  const image = await makeImage(context, (writer) => {
    writer.directory("/d", {
      mode,
      xattrs: new Map([
        ["system.posix_acl_access", list],
        ["system.posix_acl_default", list],
      ]),
    });
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  // debugfs turns the form on disk back into the one that was given, with 0 where nobody is named.
  const shown = debugfs(image, "ea_get -x /d system.posix_acl_access").replaceAll(/[^0-9a-f=]/g, "");
  assert.match(shown, new RegExp(`${list.toString("hex").replaceAll("ffffffff", "00000000")}$`));
});

test("attributes that can't be kept are refused with the path and the reason", async (context) => {
  const cases: readonly (readonly [name: string, value: Buffer, message: RegExp])[] = [
    ["user.large", Buffer.alloc(4096), /don't fit/],
    ["com.example.macos", Buffer.from("x"), /'com\.example\.macos', of a kind/],
    ["user.", Buffer.from("x"), /'user\.', of a kind/],
    [`user.${"n".repeat(256)}`, Buffer.from("x"), /bad name/],
    ["system.posix_acl_access", Buffer.from("garbage"), /damaged access list/],
  ];
  for (const [name, value, message] of cases) {
    const made = makeImage(context, (writer) => writer.directory("/d", { mode, xattrs: new Map([[name, value]]) }));
    await assert.rejects(
      made,
      (error) => error instanceof ImageError && message.test(error.message) && error.message.includes("/d"),
    );
  }
});
