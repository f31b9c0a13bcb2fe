import assert from "node:assert/strict";
import { test } from "node:test";

import { check, debugfs, makeImage } from "./image.js";

test("an empty file system passes e2fsck", async (context) => {
  const image = await makeImage(context, () => undefined);
  const { status, output } = check(image);
  assert.equal(status, 0, output);
});

test("files, links, devices and directories pass e2fsck and read back", async (context) => {
  const image = await makeImage(context, async (writer) => {
    writer.directory("/", { mode: 0o755, mtime: 5 });
    writer.directory("/etc", { mode: 0o750, uid: 70000, gid: 80000, mtime: 2 ** 31 + 7, mtimeNs: 123456789 });
    await writer.file("/etc/hello", { mode: 0o4755 }, Buffer.from("hello world\n"));
    await writer.file("/etc/empty", { mode: 0o644 }, Buffer.alloc(0));
    writer.link("/a/b/c", "/etc/hello");
    await writer.symlink("/fast", "etc/hello", { mode: 0o777 });
    await writer.symlink("/slow", "x".repeat(300), { mode: 0o777 });
    writer.node("/null", "character", { mode: 0o666 }, { major: 1, minor: 3 });
    writer.node("/big", "block", { mode: 0o600 }, { major: 259, minor: 70000 });
    writer.node("/fifo", "fifo", { mode: 0o600 });
    await writer.file(
      "/x",
      {
        mode: 0o644,
        xattrs: new Map([
          ["user.a", Buffer.from("b")],
          ["user.zz", Buffer.alloc(2000, 65)],
        ]),
      },
      Buffer.alloc(9000, 1),
    );
    for (let i = 0; i < 3000; i++) await writer.file(`/many/file-${i}`, { mode: 0o644 }, Buffer.alloc(0));
  });
  const { status, output } = check(image);
  assert.equal(status, 0, output);
  assert.equal(debugfs(image, "cat /etc/hello").replace(/^debugfs.*\n/m, ""), "hello world\n");
});
