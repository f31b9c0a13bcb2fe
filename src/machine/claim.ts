import { OperationTimeoutError } from "../errors.js";
import { acquireLock, type Lock } from "../host/lock.js";

/**
 * Waits until no other program changes a machine, and keeps others waiting until the lock is released.
 *
 * @throws OperationTimeoutError when it takes longer, or the signal's reason.
 */
export async function claimMachineLock(path: string, timeoutMs: number, signal?: AbortSignal): Promise<Lock> {
  const limit = AbortSignal.timeout(timeoutMs);
  try {
    return await acquireLock(path, signal === undefined ? limit : AbortSignal.any([signal, limit]));
  } catch (error) {
    if (error !== limit.reason) throw error;
    throw new OperationTimeoutError("Waiting for another program that changes this machine", timeoutMs, {
      hint: "Wait for that program, or end it.",
    });
  }
}
