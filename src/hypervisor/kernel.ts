import { open, type FileHandle } from "node:fs/promises";

import { ImageError } from "../errors.js";
import type { GuestArch } from "../guest/index.js";

export interface KernelFacts {
  readonly arch: GuestArch;
  readonly format: "elf" | "bzimage" | "arm64-image";
}

/** Xen's ELF note that carries the 32-bit PVH entry point (xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY). */
const PVH_NOTE_TYPE = 18;
const PT_NOTE = 4;
const MACHINE_X86_64 = 62;
/** Longer program headers and note segments than these are no kernel's. */
const HEADERS_LIMIT = 64 * 1024;
const NOTES_LIMIT = 1024 * 1024;

/**
 * Says what kind of kernel a file is, by its own magic numbers: an x86 ELF with a PVH entry, a bzImage, or an arm64 Image.
 *
 * @throws ImageError IMAGE_INVALID when it is none of them, or one that QEMU can't start.
 */
export async function inspectKernel(path: string): Promise<KernelFacts> {
  const file = await open(path, "r");
  try {
    const head = await readAt(file, 0, 0x400);
    if (head.length >= 64 && head.readUInt32BE(0) === 0x7f454c46) {
      await checkElf(file, head, path);
      return { arch: "x86_64", format: "elf" };
    }
    // Documentation/arch/x86/boot.rst: boot_flag 0xAA55 at 0x1FE, "HdrS" at 0x202.
    if (
      head.length >= 0x206 &&
      head.readUInt16LE(0x1fe) === 0xaa55 &&
      head.toString("latin1", 0x202, 0x206) === "HdrS"
    ) {
      return { arch: "x86_64", format: "bzimage" };
    }
    // Documentation/arch/arm64/booting.rst: "ARM\x64" at 56.
    if (head.length >= 64 && head.toString("latin1", 56, 60) === "ARM\x64") {
      return { arch: "aarch64", format: "arm64-image" };
    }
    throw invalid(path, "it is no kernel: neither an x86 ELF, nor a bzImage, nor an arm64 Image");
  } finally {
    await file.close();
  }
}

async function checkElf(file: FileHandle, head: Buffer, path: string): Promise<void> {
  if (head[4] !== 2 || head[5] !== 1 || head.readUInt16LE(18) !== MACHINE_X86_64) {
    throw invalid(path, "it is an ELF file, but not a 64-bit x86 kernel");
  }
  const offset = Number(head.readBigUInt64LE(32));
  const entrySize = head.readUInt16LE(54);
  const count = head.readUInt16LE(56);
  if (entrySize < 56 || count === 0 || entrySize * count > HEADERS_LIMIT) {
    throw invalid(path, "it is an ELF file without a kernel's program headers");
  }
  const headers = await readAt(file, offset, entrySize * count);
  if (headers.length < entrySize * count) throw invalid(path, "its ELF program headers are cut off");
  for (let at = 0; at < headers.length; at += entrySize) {
    if (headers.readUInt32LE(at) !== PT_NOTE) continue;
    const start = Number(headers.readBigUInt64LE(at + 8));
    const size = Math.min(Number(headers.readBigUInt64LE(at + 32)), NOTES_LIMIT);
    if (hasPvhNote(await readAt(file, start, size))) return;
  }
  throw invalid(path, "it has no PVH entry point, so QEMU can't start it", {
    hint: "Use a bzImage of this kernel, build it with CONFIG_PVH=y, or boot this root file system with the default image's kernel.",
  });
}

function hasPvhNote(notes: Buffer): boolean {
  let at = 0;
  while (at + 12 <= notes.length) {
    const nameSize = notes.readUInt32LE(at);
    const dataSize = notes.readUInt32LE(at + 4);
    const type = notes.readUInt32LE(at + 8);
    const name = notes.toString("latin1", at + 12, Math.min(at + 12 + nameSize, notes.length));
    if (type === PVH_NOTE_TYPE && name === "Xen\0") return true;
    at += 12 + align4(nameSize) + align4(dataSize);
  }
  return false;
}

function align4(size: number): number {
  return Math.ceil(size / 4) * 4;
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  if (!Number.isSafeInteger(position) || length === 0) return Buffer.alloc(0);
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function invalid(path: string, reason: string, options: { hint?: string } = {}): ImageError {
  return new ImageError("IMAGE_INVALID", `'${path}' can't be used as a kernel: ${reason}.`, {
    hint:
      options.hint ?? "Give a kernel that QEMU can start: a bzImage, a vmlinux with CONFIG_PVH=y, or an arm64 Image.",
    details: { path, asset: "kernel" },
  });
}
