import type { FileHandle } from "node:fs/promises";

import { ImageError } from "../../errors.js";
import { printableNote } from "../../printable.js";
import type { Extents } from "./record.js";
import { writeSparse } from "./sparse.js";
import { padding, parseHeader, parsePax, parseSparseRuns, TAR_BLOCK, type TarHeader } from "./tar.js";

/** One file of an archive, whose data the reader stands in front of. */
export interface ArchiveMember {
  readonly name: string;
  /** The file's size when it is extracted. */
  readonly size: number;
  /** Bytes of it that the archive stores. */
  readonly storedBytes: number;
  readonly sparse: boolean;
  readonly extents: Extents;
}

const CHUNK = 1024 * 1024;
const MAX_PAX_BYTES = 64 * 1024;
const MAP_PIECE = 64 * 1024;
/** Runs of a sparse file: at the 4 KiB that a run is at least, more than 4 GiB of perfectly alternating data. */
const MAX_RUNS = 1_000_000;
/** What tar programs add after the end, in blocks. */
const MAX_TRAILER = 128;

/** Reads an archive from its beginning, member by member, and refuses whatever is not a plain file. */
export class ArchiveReader {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #signal: AbortSignal | undefined;
  #position = 0;
  /** Where the next header is. */
  #next = 0;

  constructor(file: FileHandle, path: string, signal: AbortSignal | undefined) {
    this.#file = file;
    this.path = path;
    this.#signal = signal;
  }

  /** The next file, or null at the proper end of the archive. */
  async next(): Promise<ArchiveMember | null> {
    this.#position = this.#next;
    const header = await this.#header();
    if (header === null) {
      await this.#expectEnd();
      return null;
    }
    if (header.type !== "x") return this.#plain(header);
    if (header.size > MAX_PAX_BYTES) throw this.invalid("its extended header is too large");
    const pax = parsePax(await this.#read(header.size));
    if (pax === null) throw this.invalid("its extended header is malformed");
    this.#position += padding(header.size);
    const file = await this.#header();
    if (file === null) throw this.invalid("it ends after an extended header");
    return this.#sparse(file, pax);
  }

  /** The data of a small plain file. */
  async content(member: ArchiveMember): Promise<Buffer> {
    return this.#read(member.size);
  }

  async extractTo(member: ArchiveMember, target: FileHandle): Promise<void> {
    const buffer = Buffer.allocUnsafe(CHUNK);
    for (const [start, end] of member.extents) {
      for (let at = start; at < end;) {
        this.#signal?.throwIfAborted();
        const piece = await this.#readInto(buffer.subarray(0, Math.min(CHUNK, end - at)));
        await writeSparse(target, piece, at);
        at += piece.length;
      }
    }
    await target.truncate(member.size);
  }

  invalid(what: string): ImageError {
    return new ImageError("IMAGE_INVALID", `'${this.path}' is not a valid image archive: ${printableNote(what)}.`, {
      hint: "Export the image again with: smolvm image export",
      details: { path: this.path, position: this.#position },
    });
  }

  #plain(header: TarHeader): ArchiveMember {
    this.#expectFile(header);
    const extents: Extents = header.size === 0 ? [] : [[0, header.size]];
    return { name: header.name, size: header.size, storedBytes: header.size, sparse: false, extents };
  }

  async #sparse(header: TarHeader, pax: ReadonlyMap<string, string>): Promise<ArchiveMember> {
    this.#expectFile(header);
    const name = pax.get("GNU.sparse.name");
    const size = Number(pax.get("GNU.sparse.realsize"));
    if (pax.get("GNU.sparse.major") !== "1" || pax.get("GNU.sparse.minor") !== "0" || name === undefined) {
      throw this.invalid(`'${header.name}' has an extended header that is not that of a sparse file`);
    }
    if (!Number.isSafeInteger(size) || size < 0) throw this.invalid(`'${name}' has no proper size`);
    const start = this.#position;
    const numbers = await this.#sparseMap(name, start + header.size);
    const storedBytes = header.size - (this.#position - start);
    const extents = parseSparseRuns(numbers, size);
    if (extents === null) throw this.invalid(`the map of the sparse '${name}' has runs that can't be`);
    if (extents.reduce((sum, [from, to]) => sum + to - from, 0) !== storedBytes) {
      throw this.invalid(`the map of the sparse '${name}' does not match its data`);
    }
    return { name, size, storedBytes, sparse: true, extents };
  }

  /** The numbers of a sparse file's map, one a line: how many runs there are, then offset and length of each. */
  async #sparseMap(name: string, end: number): Promise<number[]> {
    const start = this.#position;
    const numbers: number[] = [];
    let length = 0;
    for (let rest = ""; ;) {
      const piece = await this.#read(Math.min(MAP_PIECE, end - this.#position));
      if (piece.length === 0) throw this.invalid(`the map of the sparse '${name}' has no end`);
      const lines = (rest + piece.toString("latin1")).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (!/^\d{1,15}$/.test(line)) throw this.invalid(`the map of the sparse '${name}' is malformed`);
        numbers.push(Number(line));
        length += line.length + 1;
        const runs = numbers[0] ?? 0;
        if (runs > MAX_RUNS) throw this.invalid(`the map of the sparse '${name}' is too long`);
        if (numbers.length <= 2 * runs) continue;
        this.#position = start + length + padding(length);
        return numbers.slice(1);
      }
      if (rest.length > 15) throw this.invalid(`the map of the sparse '${name}' is malformed`);
    }
  }

  async #header(): Promise<TarHeader | null> {
    const header = parseHeader(await this.#read(TAR_BLOCK));
    if (typeof header === "string") throw this.invalid(header);
    if (header !== null) this.#next = this.#position + header.size + padding(header.size);
    return header;
  }

  #expectFile(header: TarHeader): void {
    if (header.type !== "0") {
      throw this.invalid(`'${header.name}' is not a plain file (type '${header.type}')`);
    }
    if (header.linkName !== "") throw this.invalid(`'${header.name}' is a link`);
  }

  async #expectEnd(): Promise<void> {
    for (let blocks = 1; ; blocks++) {
      const block = Buffer.alloc(TAR_BLOCK);
      const { bytesRead } = await this.#file.read(block, 0, TAR_BLOCK, this.#position);
      if (bytesRead === 0) return;
      if (blocks > MAX_TRAILER || block.some((byte) => byte !== 0)) throw this.invalid("something follows its end");
      this.#position += bytesRead;
    }
  }

  async #read(size: number): Promise<Buffer> {
    return this.#readInto(Buffer.alloc(size));
  }

  async #readInto(buffer: Buffer): Promise<Buffer> {
    this.#signal?.throwIfAborted();
    for (let at = 0; at < buffer.length;) {
      const { bytesRead } = await this.#file.read(buffer, at, buffer.length - at, this.#position);
      if (bytesRead === 0) throw this.invalid("it ends too early");
      at += bytesRead;
      this.#position += bytesRead;
    }
    return buffer;
  }
}
