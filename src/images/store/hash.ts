import { closeSync, constants, fstatSync, openSync, readSync, type BigIntStats } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";

import { isErrno } from "../../host/errno.js";
import { sameBytes } from "./look.js";

export interface HashOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told now and then how many bytes are hashed. */
  readonly onBytes?: ((bytes: number, total: number) => void) | undefined;
}

export interface HashedFile {
  readonly digest: string;
  /** The file as it was when its first byte was read. Since then its names may have changed, but not its bytes. */
  readonly stat: BigIntStats;
}

/** Bytes read at a time. At 64 KiB to 4 MiB with a reused buffer, Node hashes as fast as OpenSSL itself. */
const READ_SIZE = 256 * 1024;
/** Below this a worker's start (some 30 ms) costs more than it saves. */
const WORKER_FROM = 32 * 1024 * 1024;
/** How much is hashed on the main thread before other work gets its turn: 2–4 ms. */
const TURN_SIZE = 4 * 1024 * 1024;

/** What a worker is given, and what it answers. */
export interface HashJob {
  readonly fd: number;
  readonly readSize: number;
}
export type HashAnswer = { readonly bytes: number } | { readonly digest: string };

/**
 * The SHA-256 of a regular file, or null if there is no such file, if it is something else (a folder, a symbolic link, a pipe),
 * or if it was written to while it was read. Large files are hashed in a worker, so that several go side by side and the
 * caller's event loop stays free.
 */
export async function hashFile(path: string, options: HashOptions = {}): Promise<HashedFile | null> {
  options.signal?.throwIfAborted();
  const fd = openRegular(path);
  if (fd === null) return null;
  let closeLater: Promise<unknown> | undefined;
  try {
    const before = fstatSync(fd, { bigint: true });
    if (!before.isFile()) return null;
    const total = Number(before.size);
    let digest: string;
    if (total < WORKER_FROM) {
      digest = await hashInTurns(fd, total, options);
    } else {
      const run = hashInWorker(fd, total, options);
      closeLater = run.ended;
      digest = await run.digest;
    }
    return sameBytes(before, fstatSync(fd, { bigint: true })) ? { digest, stat: before } : null;
  } finally {
    // An aborted worker may still be inside a read: its descriptor must not be given to another file before it has ended.
    if (closeLater === undefined) closeSync(fd);
    else void closeLater.finally(() => closeSync(fd));
  }
}

function openRegular(path: string): number | null {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR", "ELOOP", "ENXIO")) return null;
    throw error;
  }
}

async function hashInTurns(fd: number, total: number, { signal, onBytes }: HashOptions): Promise<string> {
  const hash = process.getBuiltinModule("node:crypto").createHash("sha256"); // as the worker, loaded on use
  const buffer = Buffer.allocUnsafe(READ_SIZE);
  let bytes = 0;
  for (let turnEnd = TURN_SIZE; ;) {
    const read = readSync(fd, buffer, 0, READ_SIZE, bytes);
    if (read === 0) return hash.digest("hex");
    hash.update(read === READ_SIZE ? buffer : buffer.subarray(0, read));
    bytes += read;
    if (bytes >= turnEnd) {
      turnEnd = bytes + TURN_SIZE;
      onBytes?.(bytes, total);
      await nextTurn();
      signal?.throwIfAborted();
    }
  }
}

function hashInWorker(
  fd: number,
  total: number,
  { signal, onBytes }: HashOptions,
): { digest: Promise<string>; ended: Promise<unknown> } {
  // Asked for here and not imported above: few files are large enough, and loading it takes time.
  const { Worker } = process.getBuiltinModule("node:worker_threads");
  // Without the parent's flags: a test runner's or a debugger's are not for this thread.
  const worker = new Worker(new URL("./hash-worker.js", import.meta.url), {
    workerData: { fd, readSize: READ_SIZE } satisfies HashJob,
    execArgv: [],
  });
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  const digest = new Promise<string>((resolve, reject) => {
    const abort = (): void => {
      void worker.terminate();
      reject(signal?.reason as Error);
    };
    signal?.addEventListener("abort", abort, { once: true });
    worker.on("message", (answer: HashAnswer) => {
      if ("digest" in answer) resolve(answer.digest);
      else onBytes?.(answer.bytes, total);
    });
    worker.once("error", reject);
    worker.once("exit", () => {
      signal?.removeEventListener("abort", abort);
      reject(new Error("the hashing worker ended without an answer"));
    });
  });
  return { digest, ended };
}
