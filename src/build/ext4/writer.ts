import { crc32 } from "node:zlib";

import { ValidationError } from "../../errors.js";
import { Blocks } from "./blocks.js";
import { appendBlocks } from "./extents.js";
import { BLOCK, type Ext4Sink, type Extent, FAST_TARGET } from "./format.js";
import { writeMetadata } from "./metadata.js";
import type { Name } from "./path.js";
import { type Attributes, type Device, type Inode, Tree } from "./tree.js";

export interface Ext4Options {
  /** The volume's name, at most 16 bytes. Default: none. */
  readonly label?: string;
  /** Room left for files, in bytes; it costs nothing in a sparse file. Default: 256 MiB. */
  readonly freeBytes?: number;
  /** Files that can still be made. Default: one for each 16 KiB of room. */
  readonly freeInodes?: number;
  /** Whether to make a journal. Default: true. */
  readonly journal?: boolean;
}

export interface Ext4Result {
  /** Bytes of the file system; the file that holds it must be made this long. */
  readonly size: number;
  readonly uuid: string;
  /** Files, directories and all others, each counted once whatever its number of names. */
  readonly inodes: number;
}

/**
 * Writes an ext4 file system in one pass: a file's bytes go to the sink as they come, all metadata follows at the end, so nothing
 * but the tree is kept in memory. The result depends on the calls and their order alone. One call at a time: each is to be awaited
 * before the next.
 *
 * Errors: ImageError IMAGE_INVALID for a tree that can't be (a name taken, a bad name, a parent that is no directory), which
 * leaves the rest as it was, and for more than 256 GiB.
 */
export class Ext4Writer {
  readonly #sink: Ext4Sink;
  readonly #tree = new Tree();
  readonly #blocks = new Blocks();
  readonly #options: Required<Ext4Options>;
  /** Room for the bytes of the current file that don't fill a block yet: one for all files, as there are many small ones. */
  readonly #rest = Buffer.alloc(BLOCK);

  constructor(sink: Ext4Sink, options: Ext4Options = {}) {
    const freeBytes = options.freeBytes ?? 256 * 1024 * 1024;
    this.#sink = sink;
    this.#options = {
      label: options.label ?? "",
      freeBytes,
      freeInodes: options.freeInodes ?? Math.ceil(freeBytes / 16384),
      journal: options.journal ?? true,
    };
    if (Buffer.byteLength(this.#options.label) > 16) {
      throw new ValidationError(`Bad label: '${this.#options.label}'. It must be at most 16 bytes.`);
    }
    for (const field of ["freeBytes", "freeInodes"] as const) {
      const value = this.#options[field];
      if (!Number.isSafeInteger(value) || value < 0) {
        throw new ValidationError(`Bad ${field}: ${value}. It must be a whole number of at least 0.`);
      }
    }
  }

  /** Makes a directory. "/" sets the root's own attributes; a directory that was made only as a parent may be named once. */
  directory(path: Name, attributes: Attributes): void {
    this.#tree.add(path, "directory", attributes);
  }

  /** Makes a file of the bytes that `content` gives. Blocks of zeros become holes. */
  async file(
    path: Name,
    attributes: Attributes,
    content: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  ): Promise<void> {
    const inode = this.#tree.add(path, "file", attributes);
    const file = new FileContent(this.#sink, this.#blocks, this.#rest);
    if (content instanceof Uint8Array) await file.append(content);
    else for await (const chunk of content) await file.append(chunk);
    await file.end();
    inode.size = file.size;
    inode.crc = file.crc;
    inode.extents = file.extents;
  }

  async symlink(path: Name, target: Name, attributes: Attributes): Promise<void> {
    const inode = this.#tree.add(path, "symlink", attributes, { target });
    if (inode.target.length < FAST_TARGET) return;
    const file = new FileContent(this.#sink, this.#blocks, this.#rest);
    await file.append(inode.target);
    await file.end();
    inode.extents = file.extents;
  }

  /** Makes a device, a fifo or a socket. */
  node(path: Name, type: "character" | "block" | "fifo" | "socket", attributes: Attributes, device?: Device): void {
    this.#tree.add(path, type, attributes, device === undefined ? {} : { device });
  }

  /** Gives a file a further name. */
  link(path: Name, existing: Name): void {
    this.#tree.link(path, existing);
  }

  /** Takes a name away again, with all that is below it; the room of what has no name left is free in the result. */
  remove(path: Name): boolean {
    const gone = this.#tree.remove(path);
    for (const inode of gone) for (const { start, count } of inode.extents) this.#blocks.free(start, count);
    return gone.length > 0;
  }

  /** What a path is now, or undefined. */
  typeOf(path: Name): Inode["type"] | undefined {
    return this.#tree.find(path)?.type;
  }

  /** Writes all that describes the files. The writer must not be used afterwards. */
  async finish(): Promise<Ext4Result> {
    return await writeMetadata(this.#sink, this.#tree, this.#blocks, this.#options);
  }
}

const ZEROS = Buffer.alloc(BLOCK);

/** One file's bytes on their way to blocks. */
class FileContent {
  readonly extents: Extent[] = [];
  size = 0;
  crc = 0;
  readonly #sink: Ext4Sink;
  readonly #blocks: Blocks;
  readonly #rest: Buffer;
  #restLength = 0;

  constructor(sink: Ext4Sink, blocks: Blocks, rest: Buffer) {
    this.#sink = sink;
    this.#blocks = blocks;
    this.#rest = rest;
  }

  async append(chunk: Uint8Array): Promise<void> {
    this.crc = crc32(chunk, this.crc);
    let at = 0;
    if (this.#restLength > 0) {
      at = Math.min(BLOCK - this.#restLength, chunk.length);
      this.#rest.set(chunk.subarray(0, at), this.#restLength);
      this.#restLength += at;
      this.size += at;
      if (this.#restLength < BLOCK) return;
      await this.#write(this.#rest, this.size - BLOCK);
      this.#restLength = 0;
    }
    const whole = at + Math.floor((chunk.length - at) / BLOCK) * BLOCK;
    if (whole > at) {
      await this.#write(chunk.subarray(at, whole), this.size);
      this.size += whole - at;
    }
    this.#rest.set(chunk.subarray(whole));
    this.#restLength = chunk.length - whole;
    this.size += this.#restLength;
  }

  async end(): Promise<void> {
    if (this.#restLength === 0) return;
    this.#rest.fill(0, this.#restLength);
    await this.#write(this.#rest, this.size - this.#restLength);
  }

  /** Writes whole blocks that begin at byte `offset` of the file, in runs as long as they come. */
  async #write(data: Uint8Array, offset: number): Promise<void> {
    let from = 0;
    let position = -1;
    let length = 0;
    for (let at = 0; at < data.length; at += BLOCK) {
      const zero = ZEROS.compare(data, at, at + BLOCK) === 0;
      const block = zero ? -1 : this.#blocks.take();
      if (block !== -1) appendBlocks(this.extents, (offset + at) / BLOCK, block);
      if (length > 0 && block * BLOCK === position + length) {
        length += BLOCK;
        continue;
      }
      if (length > 0) await this.#sink.write(position, data.subarray(from, from + length));
      length = zero ? 0 : BLOCK;
      position = block * BLOCK;
      from = at;
    }
    if (length > 0) await this.#sink.write(position, data.subarray(from, from + length));
  }
}
