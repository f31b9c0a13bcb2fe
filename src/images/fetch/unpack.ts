import { createHash } from "node:crypto";
import { close, closeSync, fsync, ftruncateSync, openSync, read, rmSync, writeSync } from "node:fs";
import { rm } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";

import { unique } from "../../host/folder.js";
import { assertSpace } from "../free-space.js";
import { dataRuns, ExtentCollector } from "../zeros.js";
import { startDecompressor, type Compression, type Decompressor } from "./decompressor.js";
import { FetchFailure } from "./failure.js";
import type { Follower } from "./follow.js";
import type { Extent } from "./request.js";

const MIB = 1024 * 1024;
const READ_SIZE = 256 * 1024;
const SPACE_EVERY = 64 * MIB;

/**
 * Holes cost nothing and compress a thousandfold, so they count only toward the apparent size. Data is different: a file
 * system image with data shrinks to a half or a tenth. Beyond `DATA_RATIO` times its compressed size (and what
 * `freeDataBytes` allows to any) it is a bomb.
 */
const DATA_RATIO = 200;

export const DEFAULT_MAX_UNPACKED = 64 * 1024 * MIB;

export interface Unpacked {
  readonly path: string;
  readonly digest: string;
  readonly size: number;
  readonly extents: readonly Extent[];
}

export interface UnpackLimits {
  /** Of the apparent size. */
  readonly maxUnpackedBytes: number;
  readonly freeDataBytes: number;
  /** Told at once when a limit is passed or the disk is full, so that the rest of the file need not be fetched. */
  readonly onRefused: (error: unknown) => void;
}

/**
 * Unpacks a compressed file while it is still growing, into a sparse file beside it.
 *
 * The descriptor of that file has one owner: `finish` once it was called, `stop` otherwise. A number that was closed is soon
 * another file's, so nothing may ever find out by trying whether it is still open.
 */
export class Unpacker implements Follower<Unpacked> {
  readonly #source: number;
  readonly #path: string;
  readonly #out: number;
  readonly #limits: UnpackLimits;
  readonly #compression: Compression;
  readonly #decompressor: Decompressor;
  readonly #hash = createHash("sha256");
  readonly #extents = new ExtentCollector();
  readonly #done: Promise<void>;
  #prefix = 0;
  #position = 0;
  #finished = false;
  #stopped = false;
  #wake: () => void = () => undefined;
  #size = 0;
  #data = 0;
  #spaceAt = 0;

  /** The file's name begins with `prefix`; no other unpacker's is the same, so none that ends late removes another's. */
  constructor(source: number, prefix: string, compression: Compression, limits: UnpackLimits) {
    this.#source = source;
    this.#path = `${prefix}.${unique()}.unpacked`;
    this.#compression = compression;
    this.#limits = limits;
    this.#out = openSync(this.#path, "wx", 0o644);
    try {
      this.#decompressor = startDecompressor(compression);
    } catch (error) {
      closeSync(this.#out);
      rmSync(this.#path, { force: true });
      throw error;
    }
    this.#done = this.#run();
    this.#done.catch(() => undefined); // `finish` tells; after `stop` nobody asks
  }

  get position(): number {
    return this.#position;
  }

  advance(prefix: number): void {
    this.#prefix = prefix;
    this.#wake();
  }

  async finish(size: number): Promise<Unpacked> {
    this.#refuseStopped(); // the descriptor is closed
    this.#finished = true;
    this.advance(size);
    try {
      await this.#done;
      this.#refuseStopped();
      ftruncateSync(this.#out, this.#size);
      await promisify(fsync)(this.#out);
    } finally {
      await promisify(close)(this.#out);
    }
    return { path: this.#path, digest: this.#hash.digest("hex"), size: this.#size, extents: this.#extents.extents };
  }

  /** Ends the work and removes what it made. A `finish` that still waits for the disk closes the file when that is over. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    const finishing = this.#finished;
    this.#decompressor.stop();
    this.#wake();
    await this.#done.catch(() => undefined); // it was stopped on purpose
    try {
      await rm(this.#path, { force: true });
    } finally {
      if (!finishing) await promisify(close)(this.#out);
    }
  }

  #refuseStopped(): void {
    if (this.#stopped) throw new Error("stopped");
  }

  async #run(): Promise<void> {
    const { output, ended } = this.#decompressor;
    let refused = null as { readonly error: unknown } | null;
    output.on("data", (bytes: Buffer) => {
      try {
        if (refused === null && !this.#stopped) this.#take(bytes);
      } catch (error) {
        refused = { error };
        this.#decompressor.stop();
        this.#wake();
        this.#limits.onRefused(error);
      }
    });
    let over = false;
    const unpacking = ended.finally(() => {
      over = true;
      this.#wake();
    });
    const feeding = this.#feed(() => over || refused !== null || this.#stopped);
    const [unpacked, fed] = await Promise.allSettled([unpacking, feeding]);
    if (refused !== null) throw refused.error;
    if (fed.status === "rejected") throw fed.reason;
    if (unpacked.status === "rejected") {
      const cause: unknown = unpacked.reason;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new FetchFailure(`its ${this.#compression} data can't be unpacked: ${why}`, { transient: false, cause });
    }
    const consumed = this.#decompressor.consumed();
    if (consumed !== null && consumed < this.#prefix) {
      throw new FetchFailure(`after its ${this.#compression} data other bytes follow`, { transient: false });
    }
  }

  async #feed(over: () => boolean): Promise<void> {
    const { input } = this.#decompressor;
    const readSource = promisify(read);
    while (!over()) {
      if (this.#position >= this.#prefix) {
        if (this.#finished) break;
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      const wanted = Math.min(READ_SIZE, this.#prefix - this.#position);
      const bytes = Buffer.allocUnsafe(wanted);
      const { bytesRead } = await readSource(this.#source, bytes, 0, wanted, this.#position);
      if (bytesRead === 0) break; // the file was started anew: this unpacker is about to be stopped
      if (over()) break; // it came to its end during the read: nobody would wake the wait below any more
      this.#position += bytesRead;
      if (!input.write(bytes.subarray(0, bytesRead))) {
        await new Promise<void>((resolve) => {
          this.#wake = () => over() && resolve();
          input.once("drain", resolve);
        });
      }
    }
    if (!over()) input.end();
  }

  #take(bytes: Buffer): void {
    const { maxUnpackedBytes, freeDataBytes } = this.#limits;
    const offset = this.#size;
    this.#size += bytes.length;
    if (this.#size > maxUnpackedBytes) {
      throw new FetchFailure(`unpacked it is larger than the limit of ${maxUnpackedBytes} bytes`, {
        transient: false,
        bomb: true,
      });
    }
    this.#hash.update(bytes);
    this.#extents.add(bytes, offset);
    const runs = dataRuns(bytes, offset);
    for (let i = 0; i < runs.length; i += 2) {
      const end = runs[i + 1] ?? 0;
      for (let at = runs[i] ?? 0; at < end;) {
        const written = writeSync(this.#out, bytes, at, end - at, offset + at);
        at += written;
        this.#data += written;
      }
    }
    if (this.#data > freeDataBytes + DATA_RATIO * this.#position) {
      throw new FetchFailure(`unpacked it has more than ${DATA_RATIO} times its size in data`, {
        transient: false,
        bomb: true,
      });
    }
    if (this.#data - this.#spaceAt >= SPACE_EVERY) {
      this.#spaceAt = this.#data;
      assertSpace(dirname(this.#path), SPACE_EVERY);
    }
  }
}
