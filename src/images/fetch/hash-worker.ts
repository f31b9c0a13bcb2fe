import { parentPort, workerData } from "node:worker_threads";

import { FileHasher } from "./hasher.js";
import { FINISHED, HASHED, PREFIX, STATE, WAKE, type HashWorkerData } from "./follow.js";

/** Between two looks at how far the file has grown, so that the progress of a long catching-up is seen. */
const STRIDE = 4 * 1024 * 1024;

const { fd, shared } = workerData as HashWorkerData;
const flags = new Int32Array(shared);
const counters = new BigInt64Array(shared);
const hasher = new FileHasher(fd);

for (;;) {
  const seen = Atomics.load(flags, WAKE);
  const state = Atomics.load(flags, STATE);
  const prefix = Number(Atomics.load(counters, PREFIX));
  if (hasher.position < prefix) {
    hasher.advance(Math.min(prefix, hasher.position + STRIDE));
    Atomics.store(counters, HASHED, BigInt(hasher.position));
  } else if (state === FINISHED) {
    break;
  } else {
    Atomics.wait(flags, WAKE, seen);
  }
}
parentPort?.postMessage(hasher.finish());
