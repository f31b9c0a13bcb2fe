// The thread that hashes one file: reads it in order into one buffer and answers with the digest.
import { createHash } from "node:crypto";
import { readSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";

import type { HashAnswer, HashJob } from "./hash.js";

/** Bytes between two reports: some 20 ms of hashing. */
const REPORT_EVERY = 32 * 1024 * 1024;

const { fd, readSize } = workerData as HashJob;
const buffer = Buffer.allocUnsafe(readSize);
const hash = createHash("sha256");
let bytes = 0;
let reportAt = REPORT_EVERY;

for (let read; (read = readSync(fd, buffer, 0, readSize, bytes)) > 0;) {
  hash.update(read === readSize ? buffer : buffer.subarray(0, read));
  bytes += read;
  if (bytes >= reportAt) {
    reportAt = bytes + REPORT_EVERY;
    answer({ bytes });
  }
}
answer({ digest: hash.digest("hex") });

function answer(message: HashAnswer): void {
  parentPort?.postMessage(message);
}
