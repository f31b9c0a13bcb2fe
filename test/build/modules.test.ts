import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { appletNames } from "../../src/build/busybox.js";
import { LIKELY_MODULES, moduleInitrd, moduleName, selectModules } from "../../src/build/modules.js";
import { ImageError } from "../../src/errors.js";
import { requireTool } from "../../src/host/tools.js";
import { kernelModule } from "./elf-files.js";

type Files = Readonly<Record<string, Buffer>>;

async function select(files: Files, builtin: readonly string[] = []): Promise<string[]> {
  const named = (wanted: ReadonlySet<string>): Map<string, Buffer> =>
    new Map(Object.entries(files).filter(([name]) => wanted.has(name)));
  const modules = await selectModules({
    builtin: builtin.map((name) => `kernel/x/${name}.ko\n`).join(""),
    likely: named(LIKELY_MODULES),
    load: (names) => Promise.resolve(named(names)),
  });
  return modules.map(({ name }) => name);
}

const least = {
  virtio_console: kernelModule(["virtio"]),
  virtio_blk: kernelModule(["virtio"]),
  virtio: kernelModule(["virtio_ring"]),
  virtio_ring: kernelModule([]),
};

test("each module comes after all that it depends on, and what is built in is left out", async () => {
  const names = await select({ ...least, virtio_pci: kernelModule(["virtio", "virtio_ring"]) }, [
    "ext4",
    "crc32c_generic",
  ]);
  assert.deepEqual(names, ["virtio_ring", "virtio", "virtio_pci", "virtio_console", "virtio_blk"]);
});

test("a dependency that nobody expected is looked up in the package", async () => {
  const names = await select({
    ...least,
    ext4: kernelModule(["odd-name"]),
    odd_name: kernelModule(["deeper"]),
    deeper: kernelModule([]),
  });
  assert.deepEqual(names.slice(-3), ["deeper", "odd_name", "ext4"]);
});

test("compressed modules are unpacked", async () => {
  const packed = {
    ...least,
    virtio: gzipSync(kernelModule(["virtio_ring"])),
    virtio_ring: execFileSync(requireTool("xz"), ["-c"], { input: kernelModule([]) }),
    virtio_blk: execFileSync(requireTool("zstd"), ["-c"], {
      input: kernelModule(["virtio"]),
      stdio: ["pipe", "pipe", "ignore"],
    }),
  };
  assert.deepEqual(await select(packed, ["ext4"]), await select(least, ["ext4"]));
});

test("modules that depend on each other do not go round for ever", async () => {
  const names = await select({ ...least, virtio_ring: kernelModule(["virtio"]) }, ["ext4"]);
  assert.equal(new Set(names).size, names.length);
});

const lacking: Readonly<Record<string, readonly [Files, RegExp]>> = {
  "no disk driver": [{ virtio_console: kernelModule([]) }, /no module 'virtio_blk'/],
  "no file system": [least, /no module 'ext4'/],
  "no module that another needs": [{ ...least, virtio_ring: kernelModule(["ghost"]) }, /no module 'ghost'/],
  "a module that is none": [{ ...least, virtio_ring: Buffer.from("hello") }, /'virtio_ring' is no module/],
};
for (const [what, [files, message]] of Object.entries(lacking)) {
  test(`a kernel with ${what} is an ImageError that says which`, async () => {
    const builtin = what === "no file system" ? [] : ["ext4"];
    await assert.rejects(select(files, builtin), (error) => error instanceof ImageError && message.test(error.message));
  });
}

test("file names become module names whatever their compression, and other files none", () => {
  assert.equal(moduleName("lib/modules/6.1/kernel/drivers/virtio-rng.ko.xz"), "virtio_rng");
  assert.equal(moduleName("a/b.ko"), "b");
  for (const path of ["a/b.ko.txt", "a/ko", "modules.dep", ""]) assert.equal(moduleName(path), null);
});

test("the initrd holds the modules and the order in which to load them", () => {
  const archive = moduleInitrd([
    { name: "first", data: Buffer.from("one") },
    { name: "second", data: Buffer.from("two") },
  ]);
  const list = execFileSync(requireTool("busybox"), ["cpio", "-t"], {
    input: archive,
    encoding: "utf8",
    stdio: ["pipe", "pipe", "ignore"],
  });
  const folder = "lib/smolvm/modules";
  assert.deepEqual(list.trim().split("\n"), [
    "lib",
    "lib/smolvm",
    folder,
    `${folder}/first.ko`,
    `${folder}/second.ko`,
    "lib/smolvm/modules.order",
  ]);
  assert.match(archive.toString("latin1"), /first\.ko\nsecond\.ko\n/);
});

test("the names of BusyBox's applets are those that it lists itself", () => {
  const binary = readFileSync(requireTool("busybox"));
  const own = execFileSync(requireTool("busybox"), ["--list"], { encoding: "utf8" }).trim().split("\n");
  assert.deepEqual(appletNames(binary), own);
});

test("a file that is no BusyBox is an ImageError", () => {
  for (const data of [
    Buffer.alloc(0),
    Buffer.from("\0[\0[[\0ls\0"),
    readFileSync(process.execPath).subarray(0, 1_000_000),
  ]) {
    assert.throws(() => appletNames(data), ImageError);
  }
});
