import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import fc from "fast-check";

import { bootableKernel } from "../../src/build/kernel.js";
import { ImageError } from "../../src/errors.js";
import { elf, note } from "./elf-files.js";

/** A vmlinux in miniature: an ELF file with the note by which hypervisors enter it, and something to compress. */
const vmlinux = elf({
  machine: 62,
  notes: [note("GNU", 3, Buffer.alloc(20)), note("Xen", 18, Buffer.alloc(8))],
  filler: 300_000,
});

function bzImage(payload: Buffer, changes: Readonly<Record<number, number>> = {}): Buffer {
  const setup = Buffer.alloc(3 * 512);
  setup[0x1f1] = 2;
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.write("HdrS", 0x202);
  setup.writeUInt16LE(0x20f, 0x206);
  const before = Buffer.alloc(1000, 0x90);
  setup.writeUInt32LE(before.length, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  for (const [at, value] of Object.entries(changes)) setup.writeUInt32LE(value, Number(at));
  return Buffer.concat([setup, before, payload, Buffer.alloc(500)]);
}

function filter(program: string, args: readonly string[], data: Buffer): Buffer {
  return execFileSync(program, args, { input: data, maxBuffer: 64 * 1024 * 1024, stdio: ["pipe", "pipe", "ignore"] });
}

function sized(data: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(vmlinux.length);
  return Buffer.concat([data, size]);
}

const compressions: Readonly<Record<string, () => Buffer>> = {
  gzip: () => gzipSync(vmlinux),
  LZ4: () => sized(filter("lz4", ["-l", "-c"], vmlinux)),
  zstd: () => sized(filter("zstd", ["-c"], vmlinux)),
  xz: () => sized(filter("xz", ["--check=crc32", "-c"], vmlinux)),
  lzma: () => sized(filter("xz", ["--format=lzma", "-c"], vmlinux)),
  "no compression": () => vmlinux,
};
for (const [name, payload] of Object.entries(compressions)) {
  test(`vmlinux comes out of a bzImage with ${name}`, async () => {
    assert.deepEqual(await bootableKernel(bzImage(payload()), "x86_64"), vmlinux);
  });
}

test("a vmlinux is taken as it is", async () => {
  assert.equal(await bootableKernel(vmlinux, "x86_64"), vmlinux);
});

test("a kernel that hypervisors can't enter as an ELF file stays a bzImage", async () => {
  const file = bzImage(gzipSync(elf({ machine: 62, notes: [note("GNU", 18, Buffer.alloc(8))], filler: 100 })));
  assert.equal(await bootableKernel(file, "x86_64"), file);
});

test("an arm64 Image is taken plain, out of gzip and out of an EFI zboot file", async () => {
  const image = Buffer.alloc(5000, 1);
  image.write("ARMd", 0x38);
  assert.deepEqual(await bootableKernel(image, "arm64"), image);
  assert.deepEqual(await bootableKernel(gzipSync(image), "arm64"), image);
  const payload = gzipSync(image);
  const zboot = Buffer.concat([Buffer.alloc(128), payload, Buffer.alloc(64)]);
  zboot.write("MZ\0\0zimg", 0);
  zboot.writeUInt32LE(128, 8);
  zboot.writeUInt32LE(payload.length, 12);
  assert.deepEqual(await bootableKernel(zboot, "arm64"), image);
});

const wrong: Readonly<Record<string, readonly [file: () => Buffer, arch: "x86_64" | "arm64"]>> = {
  "an empty file": [() => Buffer.alloc(0), "x86_64"],
  "an empty file for arm64": [() => Buffer.alloc(0), "arm64"],
  "a text": [() => Buffer.from("#!/bin/sh\n".repeat(100)), "x86_64"],
  "a bzImage without the boot sector's mark": [() => bzImage(gzipSync(vmlinux), { 0x1fc: 0 }), "x86_64"],
  "a bzImage of an old protocol": [() => bzImage(gzipSync(vmlinux), { 0x206: 0x204 }), "x86_64"],
  "a payload beyond the end": [() => bzImage(gzipSync(vmlinux), { 0x24c: 0xffffffff }), "x86_64"],
  "a payload that begins beyond the end": [() => bzImage(gzipSync(vmlinux), { 0x248: 0xfffffff0 }), "x86_64"],
  "an empty payload": [() => bzImage(Buffer.alloc(0)), "x86_64"],
  "a payload of one byte": [() => bzImage(Buffer.alloc(1)), "x86_64"],
  "a payload that is no kernel": [() => bzImage(gzipSync(Buffer.from("hello"))), "x86_64"],
  "a kernel for another machine": [() => bzImage(gzipSync(elf({ machine: 183, notes: [], filler: 9 }))), "x86_64"],
  "gzip data cut short": [() => bzImage(gzipSync(vmlinux).subarray(0, -100)), "x86_64"],
  "LZ4 data cut short": [() => bzImage(filter("lz4", ["-l", "-c"], vmlinux).subarray(0, -100)), "x86_64"],
  // Each gives a good part of the kernel before it is found to be cut.
  "xz data cut short": [() => bzImage(filter("xz", ["--block-size=65536", "-c"], vmlinux).subarray(0, -100)), "x86_64"],
  "zstd data cut short": [() => bzImage(filter("zstd", ["-c"], vmlinux).subarray(0, -9)), "x86_64"],
  "xz data that is none": [() => bzImage(Buffer.from("fd377a585a0000000000000000000000", "hex")), "x86_64"],
  "an x86 kernel for arm64": [() => bzImage(gzipSync(vmlinux)), "arm64"],
};
for (const [what, [file, arch]] of Object.entries(wrong)) {
  test(`${what} is an ImageError`, async () => {
    await assert.rejects(
      bootableKernel(file(), arch),
      (error) => error instanceof ImageError && error.code === "IMAGE_INVALID",
    );
  });
}

test("mutated kernels never end in anything but a kernel or an ImageError", async () => {
  const files = [bzImage(compressions["LZ4"]?.() ?? Buffer.alloc(0)), bzImage(gzipSync(vmlinux)), vmlinux];
  let sound = 0;
  let broken = 0;
  const mutation = fc.tuple(fc.oneof(fc.nat(4000), fc.nat(2 ** 31 - 1)), fc.nat(255));
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...files),
      fc.array(mutation, { minLength: 1, maxLength: 8 }),
      async (file, mutations) => {
        const copy = Buffer.from(file);
        for (const [at, value] of mutations) copy[at % copy.length] = value;
        try {
          await bootableKernel(copy, "x86_64");
          sound += 1;
        } catch (error) {
          assert.ok(error instanceof ImageError, String(error));
          broken += 1;
        }
      },
    ),
    { numRuns: 1500 },
  );
  console.log(`${sound} mutated kernels taken, ${broken} refused`);
});
