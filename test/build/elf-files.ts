/** One note of an ELF file. */
export function note(owner: string, type: number, content: Buffer): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt32LE(owner.length + 1, 0);
  header.writeUInt32LE(content.length, 4);
  header.writeUInt32LE(type, 8);
  return Buffer.concat([header, pad(Buffer.from(`${owner}\0`)), pad(content)]);
}

/** A 64-bit ELF file with a segment of notes and bytes that compress neither to nothing nor not at all. */
export function elf(parts: {
  readonly machine: number;
  readonly notes: readonly Buffer[];
  readonly filler: number;
}): Buffer {
  const notes = Buffer.concat(parts.notes);
  const filler = Buffer.from(Array.from({ length: parts.filler }, (_, index) => ((index * index) >> 7) & 0xff));
  const header = identity(parts.machine);
  header.writeBigUInt64LE(64n, 0x20); // segments follow the header
  header.writeUInt16LE(56, 0x36);
  header.writeUInt16LE(1, 0x38);
  const segment = Buffer.alloc(56);
  segment.writeUInt32LE(4, 0);
  segment.writeBigUInt64LE(120n, 0x08);
  segment.writeBigUInt64LE(BigInt(notes.length), 0x20);
  return Buffer.concat([header, segment, notes, filler]);
}

/** A kernel module in miniature: an ELF file whose section .modinfo says what it depends on. */
export function kernelModule(depends: readonly string[]): Buffer {
  const information = Buffer.from(`license=GPL\0depends=${depends.join(",")}\0name=x\0`);
  const names = Buffer.from("\0.modinfo\0.shstrtab\0");
  const contents = [Buffer.alloc(0), information, names];
  const header = identity(62);
  header.writeUInt16LE(64, 0x3a);
  header.writeUInt16LE(contents.length, 0x3c);
  header.writeUInt16LE(2, 0x3e);
  let at = 64;
  const sections = contents.map((content, index) => {
    const section = Buffer.alloc(64);
    section.writeUInt32LE([0, 1, 10][index] ?? 0, 0);
    section.writeBigUInt64LE(BigInt(at), 0x18);
    section.writeBigUInt64LE(BigInt(content.length), 0x20);
    at += content.length;
    return section;
  });
  header.writeBigUInt64LE(BigInt(at), 0x28);
  return Buffer.concat([header, ...contents, ...sections]);
}

function identity(machine: number): Buffer {
  const header = Buffer.alloc(64);
  header.write("\x7fELF\x02\x01\x01", "latin1");
  header.writeUInt16LE(machine, 0x12);
  return header;
}

function pad(data: Buffer): Buffer {
  return Buffer.concat([data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
}
