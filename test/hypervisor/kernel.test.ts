import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import fc from "fast-check";

import { ImageError } from "../../src/errors.js";
import { inspectKernel } from "../../src/hypervisor/kernel.js";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-kernel-"));
});
after(() => rm(folder, { recursive: true, force: true }));

async function file(bytes: Uint8Array): Promise<string> {
  const path = join(folder, "kernel");
  await writeFile(path, bytes);
  return path;
}

/** An ELF of one note segment. */
function elf({ machine = 62, note = true }: { machine?: number; note?: boolean } = {}): Buffer {
  const bytes = Buffer.alloc(0x400);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  bytes.writeUInt16LE(machine, 18);
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(1, 56);
  bytes.writeUInt32LE(4, 64); // PT_NOTE
  bytes.writeBigUInt64LE(0x200n, 64 + 8);
  bytes.writeBigUInt64LE(0x40n, 64 + 32);
  const write = (at: number, type: number): number => {
    bytes.writeUInt32LE(4, at);
    bytes.writeUInt32LE(4, at + 4);
    bytes.writeUInt32LE(type, at + 8);
    bytes.write("Xen\0", at + 12, "latin1");
    return at + 20;
  };
  const next = write(0x200, 5);
  if (note) write(next, 18);
  return bytes;
}

test("a kernel is known by what is in it", async () => {
  const bzImage = Buffer.alloc(0x400);
  bzImage.writeUInt16LE(0xaa55, 0x1fe);
  bzImage.write("HdrS", 0x202);
  assert.deepEqual(await inspectKernel(await file(bzImage)), { arch: "x86_64", format: "bzimage" });
  const image = Buffer.alloc(0x400);
  image.write("ARM\x64", 56, "latin1");
  assert.deepEqual(await inspectKernel(await file(image)), { arch: "aarch64", format: "arm64-image" });
  assert.deepEqual(await inspectKernel(await file(elf())), { arch: "x86_64", format: "elf" });
});

test("what is no kernel, or none that QEMU starts, is refused with the file and the reason", async () => {
  const refused: readonly (readonly [Uint8Array, RegExp])[] = [
    [new Uint8Array(0), /it is no kernel/],
    [Buffer.from("#!/bin/sh\n"), /it is no kernel/],
    [Buffer.alloc(100_000), /it is no kernel/],
    [elf({ note: false }), /no PVH entry point, so QEMU can't start it/],
    [elf({ machine: 183 }), /not a 64-bit x86 kernel/],
    [elf().subarray(0, 80), /cut off/],
  ];
  for (const [bytes, reason] of refused) {
    const path = await file(bytes);
    await assert.rejects(inspectKernel(path), (error: unknown) => {
      assert.ok(error instanceof ImageError);
      assert.equal(error.code, "IMAGE_INVALID");
      assert.ok(error.message.includes(path));
      assert.match(error.message, reason);
      assert.ok(error.hint);
      return true;
    });
  }
});

test("damage of any kind is an answer or an ImageError, never anything else", async (context) => {
  const runs = 500;
  await fc.assert(
    fc.asyncProperty(
      fc.nat(0x3ff),
      fc.uint8Array({ minLength: 1, maxLength: 16 }),
      fc.nat(0x400),
      async (at, bytes, cut) => {
        const damaged = elf();
        damaged.set(bytes.subarray(0, damaged.length - at), at);
        await inspectKernel(await file(damaged.subarray(0, 0x400 - (cut % 3 === 0 ? cut : 0)))).catch(
          (error: unknown) => {
            assert.ok(error instanceof ImageError, String(error));
          },
        );
      },
    ),
    { numRuns: runs },
  );
  context.diagnostic(`${runs} damaged files`);
});
