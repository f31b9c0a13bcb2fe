import { setTimeout as sleep } from "node:timers/promises";

import { FetchFailure } from "../failure.js";
import type { TransferPolicy } from "../policy.js";

/** Waits before the server is asked again. After too many failures in a row the last one is thrown instead. */
export async function pauseAfter(
  failure: FetchFailure,
  failures: number,
  policy: TransferPolicy,
  signal: AbortSignal,
): Promise<void> {
  if (failures > policy.retries) throw failure;
  await sleep(pauseMs(failure, failures, policy), undefined, { signal });
}

/** Exponential, with a random half, so that many clients of a server that failed don't come back all at once. */
function pauseMs(failure: FetchFailure, failures: number, policy: TransferPolicy): number {
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
