import { FetchFailure } from "../failure.js";
import type { Job } from "../scheme.js";
import { Download } from "./download.js";
import { StartOver } from "./opening.js";
import { pauseAfter } from "./retry.js";
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
        await pauseAfter(error, ++failures, policy, signal);
      }
    }
  } finally {
    transport.close();
  }
}
