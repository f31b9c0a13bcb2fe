import { posix } from "node:path";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";

import type { CallOptions, FileKind, GuestFiles, GuestStat, ReadFileOptions, ReadOptions } from "../guest/index.js";
import { GuestFileError } from "../errors.js";
import { invalid } from "./config.js";
import type { DownloadLimits } from "./download-limit.js";
import { downloadTree, uploadTree } from "./transfer.js";

/** Like `fs.Stats`, of a file in the guest. */
export interface VMFileStat extends GuestStat {
  readonly mtime: Date;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

/** Like `fs.Dirent`. */
export interface VMDirent {
  readonly name: string;
  readonly kind: FileKind;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

export interface WriteFileOptions extends CallOptions {
  /** Permission bits of a new file; default 0o644. */
  readonly mode?: number | undefined;
  /** As in fs: "w" (default) replaces, "a" appends, "wx" fails with EEXIST. */
  readonly flag?: "w" | "a" | "wx" | undefined;
}

/** What the file operations need of the machine. */
export interface FileHost {
  files(): GuestFiles;
  hold(): Disposable;
  explain(error: unknown): Promise<unknown>;
}

const FLAGS = { w: "replace", a: "append", wx: "exclusive" } as const;

/**
 * Files in the guest, as root, by the names and with the meaning of `fs/promises`. Paths are absolute.
 * Failures are GuestFileErrors whose `code` is the errno name that the guest's kernel gave, such as "ENOENT".
 */
export class VMFiles {
  readonly #host: FileHost;

  constructor(host: FileHost) {
    this.#host = host;
  }

  /** The whole content. The guest decides how much that is: more than `maxBytes` is the error EFBIG. */
  async readFile(
    path: string,
    options?: (ReadFileOptions & { readonly encoding?: null | undefined }) | null,
  ): Promise<Buffer>;
  async readFile(
    path: string,
    options: BufferEncoding | (ReadFileOptions & { readonly encoding: BufferEncoding }),
  ): Promise<string>;
  async readFile(
    path: string,
    options: null | BufferEncoding | (ReadFileOptions & { readonly encoding?: BufferEncoding | null | undefined }) = {},
  ): Promise<Buffer | string> {
    const { encoding, ...rest } = typeof options === "string" ? { encoding: options } : (options ?? {});
    const bytes = await this.#call(rest.signal, (files) => files.readFile(guestPath(path), rest));
    return encoding ? bytes.toString(encoding) : bytes;
  }

  async writeFile(
    path: string,
    data: string | Uint8Array | Readable | AsyncIterable<Uint8Array | string>,
    options: WriteFileOptions = {},
  ): Promise<void> {
    const { flag = "w", mode, signal } = options;
    if (!Object.hasOwn(FLAGS, flag)) throw invalid("flag", flag, '"w", "a" or "wx"');
    const wanted = { mode, signal, flag: FLAGS[flag] };
    await this.#call(signal, (files) =>
      typeof data === "string" || data instanceof Uint8Array
        ? files.writeFile(guestPath(path), data, wanted)
        : pipeline(data, files.createWriteStream(guestPath(path), wanted), { signal }),
    );
  }

  /** Streams a file; an error of opening it destroys the stream. */
  createReadStream(path: string, options: ReadOptions = {}): Readable {
    return this.#held(this.#host.files().createReadStream(guestPath(path), options));
  }

  /** "finish" means that the guest has it all. */
  createWriteStream(path: string, { flag = "w", mode, signal }: WriteFileOptions = {}): Writable {
    return this.#held(this.#host.files().createWriteStream(guestPath(path), { mode, signal, flag: FLAGS[flag] }));
  }

  async readdir(
    path: string,
    options?: CallOptions & { readonly withFileTypes?: false | undefined },
  ): Promise<string[]>;
  async readdir(path: string, options: CallOptions & { readonly withFileTypes: true }): Promise<VMDirent[]>;
  async readdir(
    path: string,
    options: CallOptions & { readonly withFileTypes?: boolean | undefined } = {},
  ): Promise<string[] | VMDirent[]> {
    const entries = await this.#call(options.signal, (files) =>
      files.readdir(guestPath(path), { signal: options.signal }),
    );
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    if (options.withFileTypes !== true) return entries.map(({ name }) => name);
    return entries.map((entry) => ({ ...entry, ...kindTests(entry.kind) }));
  }

  async stat(path: string, options: CallOptions = {}): Promise<VMFileStat> {
    return withTests(await this.#call(options.signal, (files) => files.stat(guestPath(path), options)));
  }

  async lstat(path: string, options: CallOptions = {}): Promise<VMFileStat> {
    return withTests(await this.#call(options.signal, (files) => files.lstat(guestPath(path), options)));
  }

  /** False only when nothing is there; a failure to look is an error. */
  async exists(path: string, options: CallOptions = {}): Promise<boolean> {
    return this.#call(options.signal, (files) => files.exists(guestPath(path), options));
  }

  async mkdir(
    path: string,
    options: CallOptions & { readonly recursive?: boolean | undefined; readonly mode?: number | undefined } = {},
  ): Promise<void> {
    await this.#call(options.signal, (files) => files.mkdir(guestPath(path), options));
  }

  async rm(
    path: string,
    options: CallOptions & { readonly recursive?: boolean | undefined; readonly force?: boolean | undefined } = {},
  ): Promise<void> {
    await this.#call(options.signal, (files) => files.rm(guestPath(path), options));
  }

  async rename(from: string, to: string, options: CallOptions = {}): Promise<void> {
    await this.#call(options.signal, (files) => files.rename(guestPath(from), guestPath(to), options));
  }

  async chmod(path: string, mode: number, options: CallOptions = {}): Promise<void> {
    await this.#call(options.signal, (files) => files.chmod(guestPath(path), mode, options));
  }

  async symlink(target: string, path: string, options: CallOptions = {}): Promise<void> {
    await this.#call(options.signal, (files) => files.symlink(target, guestPath(path), options));
  }

  async readlink(path: string, options: CallOptions = {}): Promise<string> {
    return this.#call(options.signal, (files) => files.readlink(guestPath(path), options));
  }

  /**
   * Copies a file or a folder with all that is in it from the host to `guestPath` itself, with modes, times and symbolic links.
   * Missing parents are made; a folder is merged into one that is there.
   */
  async upload(hostPath: string, guestTarget: string, options: CallOptions = {}): Promise<void> {
    await this.#call(options.signal, (files) => uploadTree(files, hostPath, guestPath(guestTarget), options.signal));
  }

  /**
   * Copies a file or a folder from the guest to `hostPath` itself, with modes, times and symbolic links. What the guest says is not trusted: nothing is written
   * outside `hostPath`, no set-user-id bits, devices or sockets are taken over, and no file is larger than it was said to be.
   *
   * @throws GuestFileError EFBIG when it is more than `maxBytes` or `maxEntries`.
   */
  async download(guestSource: string, hostPath: string, options: CallOptions & DownloadLimits = {}): Promise<void> {
    await this.#call(options.signal, (files) => downloadTree(files, guestPath(guestSource), hostPath, options));
  }

  async #call<T>(signal: AbortSignal | undefined, act: (files: GuestFiles) => Promise<T>): Promise<T> {
    signal?.throwIfAborted();
    using _ = this.#host.hold();
    try {
      return await act(this.#host.files());
    } catch (error) {
      signal?.throwIfAborted(); // the caller's own reason, whatever a stream makes of it
      throw error instanceof GuestFileError ? error : await this.#host.explain(error);
    }
  }

  #held<T extends Readable | Writable>(stream: T): T {
    const held = this.#host.hold();
    stream.once("close", () => held[Symbol.dispose]());
    return stream;
  }
}

/** @throws ValidationError */
export function guestPath(path: unknown): string {
  if (typeof path === "string" && posix.isAbsolute(path) && !path.includes("\0")) return path;
  throw invalid("path", path, "an absolute path in the guest");
}

function kindTests(kind: FileKind) {
  return {
    isFile: () => kind === "file",
    isDirectory: () => kind === "directory",
    isSymbolicLink: () => kind === "symlink",
  };
}

function withTests(stat: GuestStat): VMFileStat {
  return { ...stat, mtime: new Date(stat.mtimeMs), ...kindTests(stat.kind) };
}
