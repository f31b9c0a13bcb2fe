/* As much of ELF (64-bit, little-endian) as kernels and their modules need. Source: elf(5). Every offset is checked. */

const HEADER = 64;
const SECTION = 64;
const SEGMENT = 56;
const PT_NOTE = 4;

export function isElf(file: Buffer, machine?: number): boolean {
  if (file.length < HEADER || file.readUInt32BE(0) !== 0x7f454c46) return false;
  const wide = file[4] === 2 && file[5] === 1;
  return wide && (machine === undefined || file.readUInt16LE(0x12) === machine);
}

/** The bytes of the section of that name, or null if there is none or the file is damaged. */
export function findSection(file: Buffer, name: string): Buffer | null {
  if (!isElf(file)) return null;
  const table = offset(file, 0x28);
  const count = file.readUInt16LE(0x3c);
  const namesIndex = file.readUInt16LE(0x3e);
  if (file.readUInt16LE(0x3a) !== SECTION || table + count * SECTION > file.length || namesIndex >= count) return null;
  const content = (index: number): Buffer | null => {
    const header = table + index * SECTION;
    return slice(file, offset(file, header + 0x18), offset(file, header + 0x20));
  };
  const names = content(namesIndex);
  if (names === null) return null;
  const wanted = Buffer.from(`${name}\0`, "latin1");
  for (let index = 0; index < count; index++) {
    const at = file.readUInt32LE(table + index * SECTION);
    if (names.subarray(at, at + wanted.length).equals(wanted)) return content(index);
  }
  return null;
}

/** What a note of that owner and type holds, or null. */
export function findNote(file: Buffer, owner: string, type: number): Buffer | null {
  const table = offset(file, 0x20);
  const count = file.readUInt16LE(0x38);
  if (file.readUInt16LE(0x36) !== SEGMENT || table + count * SEGMENT > file.length) return null;
  for (let index = 0; index < count; index++) {
    const header = table + index * SEGMENT;
    if (file.readUInt32LE(header) !== PT_NOTE) continue;
    const notes = slice(file, offset(file, header + 0x08), offset(file, header + 0x20));
    const found = notes === null ? null : findIn(notes, owner, type);
    if (found !== null) return found;
  }
  return null;
}

function findIn(notes: Buffer, owner: string, type: number): Buffer | null {
  for (let at = 0; at + 12 <= notes.length;) {
    const nameLength = notes.readUInt32LE(at);
    const length = notes.readUInt32LE(at + 4);
    const content = at + 12 + padded(nameLength);
    if (content + length > notes.length) return null;
    const sameOwner = notes.toString("latin1", at + 12, at + 12 + nameLength) === `${owner}\0`;
    if (sameOwner && notes.readUInt32LE(at + 8) === type) return notes.subarray(content, content + length);
    at = content + padded(length);
  }
  return null;
}

function padded(length: number): number {
  return Math.ceil(length / 4) * 4;
}

/** A 64-bit number; what doesn't fit a double is beyond any file's end all the same. */
function offset(file: Buffer, at: number): number {
  return Number(file.readBigUInt64LE(at));
}

function slice(file: Buffer, start: number, length: number): Buffer | null {
  return start + length <= file.length ? file.subarray(start, start + length) : null;
}
