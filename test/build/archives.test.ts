import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";

import { defaultImage } from "../../src/build/index.js";
import { ImageError } from "../../src/errors.js";
import { requireTool } from "../../src/host/tools.js";
import type { LocalImage } from "../../src/images/index.js";
import { ImageStore } from "../../src/images/store/index.js";
import { elf, kernelModule, note } from "./elf-files.js";
import { makeArchive, type MadePackage } from "./made-archive.js";

/* Archives made here, with packages as other distributions cut them, or as nobody should. */

const vmlinux = elf({ machine: 62, notes: [note("Xen", 18, Buffer.alloc(8))], filler: 5000 });
const busybox: MadePackage = {
  name: "busybox-static",
  version: "1:1.36.1-6",
  files: { "usr/bin/busybox": readFileSync(requireTool("busybox")) },
};
const modules = "usr/lib/modules/6.8.0-50-generic";
const builtin = Buffer.from(
  ["block/virtio_blk", "char/virtio_console"].map((path) => `kernel/drivers/${path}.ko\n`).join(""),
);

async function build(
  context: TestContext,
  packages: readonly MadePackage[],
): Promise<{ image: LocalImage; store: ImageStore }> {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-archive-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const sources = join(folder, "sources.list");
  writeFileSync(sources, makeArchive(folder, "amd64", packages));
  const configuration = join(folder, "apt.conf");
  writeFileSync(configuration, `Dir::Etc::sourcelist "${sources}"; Dir::Etc::sourceparts "/dev/null";\n`);
  process.env["APT_CONFIG"] = configuration;
  try {
    const cacheDir = join(folder, "images");
    return { image: await defaultImage({ arch: "x86_64", cacheDir }), store: new ImageStore(cacheDir) };
  } finally {
    delete process.env["APT_CONFIG"];
  }
}

test("a kernel in one package and its compressed modules in another, behind two meta packages", async (context) => {
  const { image, store } = await build(context, [
    busybox,
    { name: "linux-image-virtual", depends: "linux-image-generic (= 1.0), linux-firmware | nothing" },
    { name: "linux-image-generic", depends: "linux-image-6.8.0-50-generic" },
    { name: "linux-firmware" },
    {
      name: "linux-image-6.8.0-50-generic",
      version: "6.8.0-50.51",
      depends: "kmod,\n linux-modules-6.8.0-50-generic",
      files: { "boot/vmlinuz-6.8.0-50-generic": vmlinux },
    },
    {
      name: "linux-modules-6.8.0-50-generic",
      version: "6.8.0-50.51",
      files: {
        [`${modules}/modules.builtin`]: builtin,
        [`${modules}/kernel/fs/ext4/ext4.ko.zst`]: zstd(kernelModule(["jbd2", "fs-odd"])),
        [`${modules}/kernel/fs/jbd2/jbd2.ko.gz`]: gzipSync(kernelModule([])),
        [`${modules}/kernel/fs/fs-odd.ko`]: kernelModule([]),
        [`${modules}/kernel/sound/sound.ko`]: kernelModule([]),
      },
    },
  ]);
  assert.deepEqual(readFileSync(image.kernelPath), vmlinux);
  const initrd = readFileSync(image.initrdPath ?? "", "latin1");
  assert.match(initrd, /jbd2\.ko\nfs_odd\.ko\next4\.ko\n\0/);
  assert.doesNotMatch(initrd, /sound/);
  const record = await store.read(image.name);
  assert.deepEqual(record?.origin.details, {
    "busybox-static": "1:1.36.1-6",
    "linux-image-6.8.0-50-generic": "6.8.0-50.51",
    "linux-modules-6.8.0-50-generic": "6.8.0-50.51",
  });
});

test("a kernel that no meta package stands for is taken by its own name", async (context) => {
  const kernel = {
    "boot/vmlinuz-6": vmlinux,
    "lib/modules/6/modules.builtin": Buffer.concat([builtin, Buffer.from("kernel/fs/ext4.ko\n")]),
  };
  const { image } = await build(context, [busybox, { name: "linux-image-amd64", files: kernel }]);
  assert.deepEqual(readFileSync(image.kernelPath), vmlinux);
  assert.match(readFileSync(image.initrdPath ?? "", "latin1"), /modules\.order/);
});

const broken: Readonly<Record<string, readonly [packages: readonly MadePackage[], message: RegExp]>> = {
  "no kernel in its package": [
    [busybox, { name: "linux-image-amd64" }],
    /No kernel is in the packages .*linux-image-amd64/,
  ],
  "no BusyBox at all": [[{ name: "linux-image-amd64" }], /busybox-static/],
  "no BusyBox in its package": [
    [{ name: "busybox-static" }, { name: "linux-image-amd64", files: { "boot/vmlinuz-6": vmlinux } }],
    /No BusyBox is in the packages/,
  ],
  "a kernel that is a text": [
    [
      busybox,
      {
        name: "linux-image-amd64",
        files: {
          "boot/vmlinuz-6": Buffer.from("hello"),
          "x/modules.builtin": Buffer.from("a/ext4.ko\na/virtio_blk.ko\na/virtio_console.ko"),
        },
      },
    ],
    /The kernel file is no bzImage/,
  ],
  "a kernel that can't be driven": [
    [busybox, { name: "linux-image-amd64", files: { "boot/vmlinuz-6": vmlinux } }],
    /no module 'virtio_console', neither as a file nor built in/,
  ],
};
for (const [what, [packages, message]] of Object.entries(broken)) {
  test(`${what} is an ImageError that says so`, async (context) => {
    await assert.rejects(build(context, packages), (error) => {
      assert.ok(error instanceof ImageError, String(error));
      assert.equal(error.code, "IMAGE_BUILD_FAILED");
      assert.match(error.message, message);
      assert.ok(error.hint);
      return true;
    });
  });
}

function zstd(data: Buffer): Buffer {
  return execFileSync(requireTool("zstd"), ["-c"], { input: data, stdio: ["pipe", "pipe", "ignore"] });
}
