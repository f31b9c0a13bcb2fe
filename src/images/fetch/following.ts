import { readSync } from "node:fs";

import { claimedCompression, compressionOf, MAGIC_LENGTH } from "./decompressor.js";
import { FetchFailure } from "./failure.js";
import { InlineHash, WorkerHash, type Follower } from "./follow.js";
import type { HashResult } from "./hasher.js";
import type { PartialFile, PartialListener } from "./partial.js";
import { Unpacker, type Unpacked, type UnpackLimits } from "./unpack.js";

export interface FollowingOptions extends UnpackLimits {
  readonly workerFromBytes: number;
}

/** Everything that goes through the bytes behind their writer: the digest, and the unpacking of what is compressed. */
export class Following implements PartialListener {
  readonly #file: PartialFile;
  readonly #options: FollowingOptions;
  #url = "";
  #hash: Follower<HashResult> | null = null;
  #unpacker: Unpacker | null = null;
  #unpackError: { readonly error: unknown } | null = null;
  #looked = false;
  readonly #stopping: Promise<void>[] = [];

  constructor(file: PartialFile, options: FollowingOptions) {
    this.#file = file;
    this.#options = options;
  }

  /** The address that the bytes come from now. Its name may tell how they are compressed. */
  set url(url: string) {
    this.#url = url;
  }

  restarted(): void {
    for (const follower of [this.#hash, this.#unpacker]) if (follower !== null) this.#end(follower);
    this.#hash = null;
    this.#unpacker = null;
    this.#unpackError = null;
    this.#looked = false;
  }

  grown(prefix: number): void {
    const { total, fd } = this.#file;
    if (this.#hash === null) {
      const long = total === null || total >= this.#options.workerFromBytes;
      this.#hash = long ? new WorkerHash(fd) : new InlineHash(fd);
    }
    this.#hash.advance(prefix);
    if (!this.#looked && prefix >= MAGIC_LENGTH) this.#look();
    this.#unpacker?.advance(prefix);
  }

  #look(): void {
    this.#looked = true;
    const head = Buffer.alloc(MAGIC_LENGTH);
    readSync(this.#file.fd, head, 0, MAGIC_LENGTH, 0);
    const compression = compressionOf(head);
    if (compression === null) return;
    try {
      this.#unpacker = new Unpacker(this.#file.fd, this.#file.path, compression, this.#options);
    } catch (error) {
      this.#unpackError = { error }; // a tool that lacks: told once the bytes themselves are known to be right
    }
  }

  /** How far the digest has come. */
  get hashed(): number {
    return this.#hash?.position ?? 0;
  }

  /** The digest of the whole file. */
  async hash(): Promise<HashResult> {
    const size = this.#file.total ?? 0;
    this.#hash ??= new InlineHash(this.#file.fd);
    return this.#hash.finish(size);
  }

  /**
   * The unpacked file, or null if the bytes are not compressed. What only looks compressed by its first bytes, such as a
   * boot archive of several parts, and does not unpack as a whole, is taken as it is.
   */
  async unpacked(): Promise<Unpacked | null> {
    const claimed = this.#url === "" ? null : claimedCompression(this.#url);
    try {
      if (this.#unpackError !== null) throw this.#unpackError.error;
      if (this.#unpacker !== null) return await this.#unpacker.finish(this.#file.total ?? 0);
    } catch (error) {
      const stays = claimed === null && error instanceof FetchFailure && !error.bomb;
      await this.#unpacker?.stop();
      if (stays) return null;
      throw error;
    }
    if (claimed !== null) {
      throw new FetchFailure(`its name says ${claimed} but its first bytes are not those of ${claimed} data`, {
        transient: false,
      });
    }
    return null;
  }

  /** Ends all of it. The unpacked file stays if `keep` is set. */
  async stop(keep: boolean): Promise<void> {
    if (this.#hash !== null) this.#end(this.#hash);
    if (this.#unpacker !== null && !keep) this.#end(this.#unpacker);
    await Promise.all(this.#stopping);
  }

  #end(follower: Follower<unknown>): void {
    const stopping = follower.stop();
    stopping.catch(() => undefined); // `stop` tells of it, which may be much later
    this.#stopping.push(stopping);
  }
}
