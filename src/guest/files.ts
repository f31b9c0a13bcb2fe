import { finished, type Readable, type Writable } from "node:stream";

import { GuestFileError } from "../errors.js";
import { Call } from "./call.js";
import type { Link } from "./connection.js";
import {
  accountId,
  checkedPath,
  lengthOrEnd,
  offset,
  permissions,
  putTime,
  readStat,
  takeEntries,
  writeFlags,
} from "./file-values.js";
import { FRAME_COST, violation } from "./frames.js";
import { PayloadReader, PayloadWriter } from "./payload.js";
import { InputStream, OUTPUT_WINDOW, OutputStream } from "./streams.js";
import type {
  CallOptions,
  GuestDirent,
  GuestFiles,
  GuestStat,
  ReadFileOptions,
  ReadOptions,
  WriteOptions,
} from "./types.js";

/** Operation numbers of docs/protocol.md. */
const Operation = {
  read: 16,
  write: 17,
  list: 18,
  remove: 19,
  stat: 32,
  lstat: 33,
  mkdir: 34,
  rename: 35,
  chmod: 36,
  chown: 37,
  lchown: 38,
  utimes: 39,
  lutimes: 40,
  symlink: 41,
  readlink: 42,
  link: 43,
  truncate: 44,
  put: 45,
} as const;

/** Up to this, a file is written with one message. */
export const SMALL_FILE = 128 * 1024;
const DEFAULT_MODE = 0o644;
/** What `readFile` and `readdir` collect at most: the guest decides how much there is, and must not decide over this memory. */
const LARGEST_FILE = 256 * 1024 * 1024;
const READ_AS_STREAM = "Read a file of this size with createReadStream, or give a larger maxBytes.";
const LARGEST_LIST = 64 * 1024 * 1024;
const MOST_ENTRIES = 1_000_000;
const LIST_IN_GUEST = "List a folder of this size with a command in the guest.";

export class Files implements GuestFiles {
  readonly #link: Link;

  constructor(link: Link) {
    this.#link = link;
  }

  createReadStream(path: string, options: ReadOptions = {}): Readable {
    const payload = readRequest(path, options);
    let size = 0;
    const output: OutputStream = new OutputStream(
      (cost) => call.grant(cost),
      () => call.cancel(new GuestFileError("ECANCELED", "read", path)),
    );
    const call = new Call(this.#link, payload, {
      operation: "read",
      path,
      signal: options.signal,
      credit: OUTPUT_WINDOW,
      onData: (bytes) => {
        assertAskedFor((size += bytes.length), options);
        output.deliver(bytes);
      },
      onFrame: () => output.owe(FRAME_COST),
    });
    call.result.then(
      () => output.finish(),
      (error: unknown) => output.destroy(error as Error),
    );
    return output;
  }

  createWriteStream(path: string, options: WriteOptions = {}): Writable {
    const payload = new PayloadWriter()
      .u16(Operation.write)
      .u8(writeFlags(options))
      .u32(permissions(options.mode ?? DEFAULT_MODE));
    const call = new Call(this.#link, payload.string(checkedPath(path), "path").finish("The path"), {
      operation: "write",
      path,
      signal: options.signal,
      onCredit: (cost) => input.credit(cost),
    });
    let ended = false;
    const input: InputStream = new InputStream(
      {
        send: (bytes, sent) => call.send(bytes, sent),
        end: (done) => {
          ended = true;
          call.sendEnd();
          call.result.then(
            () => done(),
            (error: unknown) => done(error as Error),
          );
        },
        abandon: (error) => call.cancel(error ?? new GuestFileError("ECANCELED", "write", path)),
      },
      FRAME_COST,
    );
    call.result.then(
      () => {
        if (!ended) input.destroy(violation("a file that is said to be written before it was sent"));
      },
      (error: unknown) => input.destroy(error as Error),
    );
    return input;
  }

  async readFile(path: string, options: ReadFileOptions = {}): Promise<Buffer> {
    const { maxBytes = LARGEST_FILE } = options;
    offset(maxBytes, "maxBytes");
    const pieces: Buffer[] = [];
    let size = 0;
    const settle = creditInPortions((cost) => call.grant(cost));
    const call: Call = new Call(this.#link, readRequest(path, options), {
      operation: "read",
      path,
      signal: options.signal,
      credit: OUTPUT_WINDOW,
      onFrame: () => settle(FRAME_COST),
      onData: (bytes) => {
        assertAskedFor((size += bytes.length), options);
        if (size > maxBytes) {
          pieces.length = 0;
          call.cancel(new GuestFileError("EFBIG", "read", path, { hint: READ_AS_STREAM, details: { maxBytes } }));
          return;
        }
        pieces.push(bytes);
        settle(bytes.length);
      },
    });
    await call.result;
    return pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces);
  }

  async writeFile(path: string, data: Uint8Array | string, options: WriteOptions = {}): Promise<void> {
    const bytes = typeof data === "string" ? Buffer.from(data, "utf8") : data;
    if (bytes.length <= SMALL_FILE && options.sync !== true) {
      const payload = new PayloadWriter()
        .u16(Operation.put)
        .u8(writeFlags(options))
        .u32(permissions(options.mode ?? DEFAULT_MODE));
      await this.#call("write", path, payload.string(checkedPath(path), "path").bytes(bytes), options);
      return;
    }
    const stream = this.createWriteStream(path, options);
    await new Promise<void>((resolve, reject) => {
      finished(stream, { readable: false }, (error) => (error ? reject(error) : resolve()));
      stream.end(bytes);
    });
  }

  async readdir(path: string, options?: CallOptions): Promise<GuestDirent[]> {
    const payload = new PayloadWriter().u16(Operation.list).u32(OUTPUT_WINDOW).string(checkedPath(path), "path");
    const entries: GuestDirent[] = [];
    let rest: Buffer = Buffer.alloc(0);
    let size = 0;
    const settle = creditInPortions((cost) => call.grant(cost));
    const call: Call = new Call(this.#link, payload.finish("The path"), {
      operation: "list",
      path,
      signal: options?.signal,
      credit: OUTPUT_WINDOW,
      onFrame: () => settle(FRAME_COST),
      onData: (bytes) => {
        size += bytes.length;
        rest = takeEntries(rest.length === 0 ? bytes : Buffer.concat([rest, bytes]), entries);
        if (size > LARGEST_LIST || entries.length > MOST_ENTRIES) {
          call.cancel(new GuestFileError("EOVERFLOW", "list", path, { hint: LIST_IN_GUEST }));
          return;
        }
        settle(bytes.length);
      },
    });
    await call.result;
    if (rest.length > 0) throw violation("a folder's list that ends too early");
    return entries;
  }

  stat(path: string, options?: CallOptions): Promise<GuestStat> {
    return this.#stat("stat", path, options);
  }

  lstat(path: string, options?: CallOptions): Promise<GuestStat> {
    return this.#stat("lstat", path, options);
  }

  async exists(path: string, options?: CallOptions): Promise<boolean> {
    try {
      await this.stat(path, options);
      return true;
    } catch (error) {
      if (error instanceof GuestFileError && (error.code === "ENOENT" || error.code === "ENOTDIR")) return false;
      throw error;
    }
  }

  async mkdir(
    path: string,
    options: CallOptions & { recursive?: boolean | undefined; mode?: number | undefined } = {},
  ): Promise<void> {
    const payload = request(Operation.mkdir, path)
      .u32(permissions(options.mode ?? 0o755))
      .u8(options.recursive === true ? 1 : 0);
    await this.#call("mkdir", path, payload, options);
  }

  async rm(
    path: string,
    options: CallOptions & { recursive?: boolean | undefined; force?: boolean | undefined } = {},
  ): Promise<void> {
    const payload = new PayloadWriter().u16(Operation.remove);
    payload
      .u8(options.recursive === true ? 1 : 0)
      .u8(options.force === true ? 1 : 0)
      .string(checkedPath(path), "path");
    await this.#call("rm", path, payload, options);
  }

  async rename(from: string, to: string, options?: CallOptions): Promise<void> {
    await this.#call("rename", from, request(Operation.rename, from).string(checkedPath(to), "path"), options);
  }

  async chmod(path: string, mode: number, options?: CallOptions): Promise<void> {
    await this.#call("chmod", path, request(Operation.chmod, path).u32(permissions(mode)), options);
  }

  async chown(path: string, uid: number, gid: number, options?: CallOptions): Promise<void> {
    await this.#call(
      "chown",
      path,
      request(Operation.chown, path).u32(accountId(uid, "uid")).u32(accountId(gid, "gid")),
      options,
    );
  }

  async lchown(path: string, uid: number, gid: number, options?: CallOptions): Promise<void> {
    await this.#call(
      "lchown",
      path,
      request(Operation.lchown, path).u32(accountId(uid, "uid")).u32(accountId(gid, "gid")),
      options,
    );
  }

  async utimes(path: string, atimeMs: number, mtimeMs: number, options?: CallOptions): Promise<void> {
    await this.#call("utimes", path, times(request(Operation.utimes, path), atimeMs, mtimeMs), options);
  }

  async lutimes(path: string, atimeMs: number, mtimeMs: number, options?: CallOptions): Promise<void> {
    await this.#call("lutimes", path, times(request(Operation.lutimes, path), atimeMs, mtimeMs), options);
  }

  async symlink(target: string, path: string, options?: CallOptions): Promise<void> {
    await this.#call("symlink", path, request(Operation.symlink, path).string(target, "target"), options);
  }

  async readlink(path: string, options?: CallOptions): Promise<string> {
    return (await this.#call("readlink", path, request(Operation.readlink, path), options)).string();
  }

  async link(existing: string, path: string, options?: CallOptions): Promise<void> {
    await this.#call("link", path, request(Operation.link, path).string(checkedPath(existing), "path"), options);
  }

  async truncate(path: string, length = 0, options?: CallOptions): Promise<void> {
    await this.#call("truncate", path, request(Operation.truncate, path).u64(offset(length, "length")), options);
  }

  async #stat(operation: "stat" | "lstat", path: string, options?: CallOptions): Promise<GuestStat> {
    return readStat(await this.#call(operation, path, request(Operation[operation], path), options));
  }

  async #call(operation: string, path: string, payload: PayloadWriter, options?: CallOptions): Promise<PayloadReader> {
    const call = new Call(this.#link, payload.finish("The request"), { operation, path, signal: options?.signal });
    return new PayloadReader(await call.result);
  }
}

/** Gives credit back in few, large portions, as streams do: an answer to each tiny frame would cost more than the frame. */
function creditInPortions(grant: (cost: number) => void): (cost: number) => void {
  let owed = 0;
  return (cost) => {
    owed += cost;
    if (owed < OUTPUT_WINDOW / 4) return;
    const due = owed;
    owed = 0;
    grant(due);
  };
}

/** @throws a violation when the guest sends more of a file than was asked for. */
function assertAskedFor(size: number, { length }: ReadOptions): void {
  if (length !== undefined && size > length) throw violation("more of a file than was asked for");
}

function request(operation: number, path: string): PayloadWriter {
  return new PayloadWriter().u16(operation).string(checkedPath(path), "path");
}

function readRequest(path: string, options: ReadOptions): Buffer {
  const payload = new PayloadWriter().u16(Operation.read).u64(offset(options.start ?? 0, "start"));
  payload.u64(lengthOrEnd(options.length)).u32(OUTPUT_WINDOW).string(checkedPath(path), "path");
  return payload.finish("The path");
}

function times(payload: PayloadWriter, atimeMs: number, mtimeMs: number): PayloadWriter {
  return putTime(putTime(payload, atimeMs, "atimeMs"), mtimeMs, "mtimeMs");
}
