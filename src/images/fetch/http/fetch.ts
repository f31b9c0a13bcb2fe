import { setTimeout as sleep } from "node:timers/promises";

import { FetchFailure } from "../failure.js";
import type { TransferPolicy } from "../policy.js";
import type { Job } from "../scheme.js";
import { Download } from "./download.js";
import { StartOver } from "./opening.js";
import { openTransport } from "./transport.js";

const MIB = 1024 * 1024;

/** `http:` and `https:` addresses: tries until the file is complete or trying again is of no use. */
export async function fetchHttp(job: Job): Promise<void> {
  const { file, policy, signal } = job;
  const transport = openTransport(policy);
  try {
    let ranges = true;
    let failures = 0;
    let best = file.covered;
    while (!file.complete) {
      try {
        await new Download(job, transport, ranges).run();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof FetchFailure) || !error.transient) throw error;
        if (error instanceof StartOver) ranges = false;
        // A connection that breaks again and again still comes to the end if each one brings a good part.
        if (file.covered - best >= Math.min(MIB, (file.total ?? MIB) / 20)) {
          best = file.covered;
          failures = 0;
        }
        if (++failures > policy.retries) throw error;
        await sleep(pause(error, failures, policy), undefined, { signal });
      }
    }
  } finally {
    transport.close();
  }
}

/** Exponential, with a random half, so that many clients of a server that failed don't come back all at once. */
function pause(failure: FetchFailure, failures: number, policy: TransferPolicy): number {
  const asked = failure.retryAfterMs ?? 0;
  if (asked > policy.retryAfterLimitMs) {
    throw new FetchFailure(`${failure.message}; the server asks to wait ${Math.ceil(asked / 1000)} s`, {
      transient: false,
      status: failure.status,
      cause: failure,
    });
  }
  const longest = Math.min(policy.backoffLimitMs, policy.backoffMs * 2 ** (failures - 1));
  return Math.max(asked, longest * (0.5 + Math.random() / 2));
}
