import { Worker } from "node:worker_threads";

import { FileHasher, type HashResult } from "./hasher.js";

/** Goes through a growing file behind its writer. */
export interface Follower<T> {
  /** The file is whole from its beginning up to `prefix`. */
  advance(prefix: number): void;
  /** How far it has come. */
  readonly position: number;
  /** The file is whole, and has `size` bytes. */
  finish(size: number): Promise<T>;
  stop(): Promise<void>;
}

/** The shared memory: two words of 32 bits, then two counters of 64. */
export const WAKE = 0;
export const STATE = 1;
export const PREFIX = 1;
export const HASHED = 2;
export const FINISHED = 1;

export interface HashWorkerData {
  readonly fd: number;
  readonly shared: SharedArrayBuffer;
}

/** What the calling thread hashes before it lets others have a turn: 5 ms or so. */
const TURN = 8 * 1024 * 1024;

/** Hashes in the calling thread: for files that are done before a worker would have started. */
export class InlineHash implements Follower<HashResult> {
  readonly #hasher: FileHasher;
  #failure: { readonly error: unknown } | null = null;
  #stopped = false;

  constructor(fd: number) {
    this.#hasher = new FileHasher(fd);
  }

  get position(): number {
    return this.#hasher.position;
  }

  advance(prefix: number): void {
    if (this.#failure !== null) return;
    try {
      this.#hasher.advance(Math.min(prefix, this.#hasher.position + TURN));
    } catch (error) {
      this.#failure = { error }; // the writer is not to fail for it: `finish` tells
    }
  }

  async finish(size: number): Promise<HashResult> {
    while (this.#failure === null && this.#hasher.position < size) {
      this.advance(size);
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#stopped) throw new Error("stopped"); // the file may be closed by now
    }
    if (this.#failure !== null) throw this.#failure.error;
    return this.#hasher.finish();
  }

  stop(): Promise<void> {
    this.#stopped = true;
    return Promise.resolve();
  }
}

/** It needs next to nothing, and would else take what V8 thinks fit for a whole program. */
const HEAP = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 64 };

/** Waking a thread costs 10 to 100 µs, and the other processor too. What waits until the next time is hashed in 2 ms. */
const WAKE_EVERY = 4 * 1024 * 1024;

/** Hashes in a thread of its own, which reads the file behind the writer: out of the page cache, so it costs next to nothing. */
export class WorkerHash implements Follower<HashResult> {
  readonly #flags: Int32Array;
  readonly #counters: BigInt64Array;
  readonly #worker: Worker;
  readonly #result: Promise<HashResult>;
  #wakeAt = 0;

  constructor(fd: number) {
    const shared = new SharedArrayBuffer(24);
    this.#flags = new Int32Array(shared);
    this.#counters = new BigInt64Array(shared);
    const data: HashWorkerData = { fd, shared };
    this.#worker = new Worker(new URL("./hash-worker.js", import.meta.url), { workerData: data, resourceLimits: HEAP });
    this.#result = new Promise((resolve, reject) => {
      this.#worker.once("message", resolve);
      this.#worker.once("error", reject);
      this.#worker.once("exit", () => reject(new Error("the hashing thread ended early")));
    });
    this.#result.catch(() => undefined); // `finish` tells; after `stop` nobody asks
  }

  get position(): number {
    return Number(Atomics.load(this.#counters, HASHED));
  }

  advance(prefix: number): void {
    Atomics.store(this.#counters, PREFIX, BigInt(prefix));
    if (prefix >= this.#wakeAt) this.#wake(prefix);
  }

  #wake(prefix: number): void {
    this.#wakeAt = prefix + WAKE_EVERY;
    Atomics.add(this.#flags, WAKE, 1);
    Atomics.notify(this.#flags, WAKE);
  }

  finish(size: number): Promise<HashResult> {
    Atomics.store(this.#flags, STATE, FINISHED);
    Atomics.store(this.#counters, PREFIX, BigInt(size));
    this.#wake(size);
    return this.#result;
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }
}
