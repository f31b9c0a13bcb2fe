import { ImageError } from "../errors.js";
import { findNote, isElf } from "./elf.js";
import { unpack } from "./unpack.js";

export type Arch = "x86_64" | "arm64";

/** An unpacked kernel is some 50 MiB; beyond this it is none. */
const MAX_KERNEL = 512 * 1024 * 1024;

/**
 * Makes of a distribution's kernel file the form that a hypervisor boots quickest.
 *
 * x86-64: the ELF file `vmlinux` out of a bzImage, if it has the PVH entry that hypervisors enter it by; else the bzImage itself.
 * arm64: the plain `Image`, unpacked if it is compressed or an EFI zboot file.
 *
 * Errors: ImageError IMAGE_INVALID for what is no kernel of that architecture.
 */
export async function bootableKernel(file: Buffer, arch: Arch): Promise<Buffer> {
  return arch === "x86_64" ? await vmlinux(file) : await arm64Image(file);
}

const XEN_PHYS32_ENTRY = 18;
const ELF_X86_64 = 62;

async function vmlinux(file: Buffer): Promise<Buffer> {
  const unpacked = isElf(file) ? file : await unpackBzImage(file);
  if (!isElf(unpacked, ELF_X86_64)) throw invalid("holds no ELF file for x86-64");
  return findNote(unpacked, "Xen", XEN_PHYS32_ENTRY) === null ? file : unpacked;
}

/** Source of the offsets: Linux, Documentation/arch/x86/boot.rst. */
async function unpackBzImage(file: Buffer): Promise<Buffer> {
  if (file.length < 0x260 || file.readUInt16LE(0x1fe) !== 0xaa55 || file.toString("latin1", 0x202, 0x206) !== "HdrS") {
    throw invalid("is no bzImage");
  }
  if (file.readUInt16LE(0x206) < 0x208) throw invalid("is of a boot protocol before 2.08");
  const setupSectors = file[0x1f1] === 0 ? 4 : (file[0x1f1] as number);
  const start = (setupSectors + 1) * 512 + file.readUInt32LE(0x248);
  const length = file.readUInt32LE(0x24c);
  if (length === 0 || start + length > file.length) throw invalid("says that its payload lies beyond its end");
  return await unpack(file.subarray(start, start + length), "The kernel's payload", MAX_KERNEL);
}

async function arm64Image(file: Buffer): Promise<Buffer> {
  const image = await unpack(isZboot(file) ? zbootPayload(file) : file, "The kernel", MAX_KERNEL);
  // Source: Linux, Documentation/arch/arm64/booting.rst.
  if (image.length < 64 || image.toString("latin1", 0x38, 0x3c) !== "ARMd") throw invalid("is no arm64 Image");
  return image;
}

/** Source: Linux, drivers/firmware/efi/libstub/zboot-header.S. */
function isZboot(file: Buffer): boolean {
  return file.length >= 64 && file.toString("latin1", 0, 2) === "MZ" && file.toString("latin1", 4, 8) === "zimg";
}

function zbootPayload(file: Buffer): Buffer {
  const start = file.readUInt32LE(8);
  const length = file.readUInt32LE(12);
  if (length === 0 || start + length > file.length) throw invalid("says that its payload lies beyond its end");
  return file.subarray(start, start + length);
}

function invalid(reason: string): ImageError {
  return new ImageError("IMAGE_INVALID", `The kernel file ${reason}.`);
}
