import { randomBytes } from "node:crypto";
import { link, readFile, rename, rm, unlink, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { OperationTimeoutError } from "../errors.js";
import { liveness, processIdentity, type ProcessIdentity } from "../host/process.js";

const POLL_MS = 15;

export interface Claim {
  release(): Promise<void>;
}

/**
 * Takes a name for this process: a file with the process's identity in it, made in one step. A claim of a process that is gone
 * is taken over. Null when another process has it.
 */
export async function tryClaim(path: string): Promise<Claim | null> {
  const mine = `${path}.${process.pid}.${randomBytes(4).toString("hex")}`;
  await writeFile(mine, JSON.stringify(processIdentity()), { mode: 0o600 });
  try {
    if (!(await linkIfFree(mine, path))) {
      if (!(await isAbandoned(path))) return null;
      // Of several that find it abandoned, one gets to move it away.
      await rename(path, `${mine}.old`).catch(() => undefined);
      await rm(`${mine}.old`, { force: true });
      if (!(await linkIfFree(mine, path))) return null;
    }
  } finally {
    await unlink(mine);
  }
  return { release: () => rm(path, { force: true }) };
}

/** True while a process that may be alive has the claim. */
export async function isClaimed(path: string): Promise<boolean> {
  const holder = await readClaim(path);
  return holder !== null && liveness(holder) !== "dead";
}

/** @throws OperationTimeoutError when it stays taken for so long. */
export async function waitForClaim(path: string, timeoutMs: number, signal?: AbortSignal): Promise<Claim> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    const claim = await tryClaim(path);
    if (claim !== null) return claim;
    if (Date.now() > deadline) {
      throw new OperationTimeoutError("Waiting for another program that changes this machine", timeoutMs);
    }
    await sleep(POLL_MS);
  }
}

async function linkIfFree(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** Null when nobody has it. Claims appear whole, so what can't be read as one is none. */
async function readClaim(path: string): Promise<ProcessIdentity | null> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as ProcessIdentity;
  } catch {
    return null;
  }
}

async function isAbandoned(path: string): Promise<boolean> {
  const holder = await readClaim(path);
  return holder !== null && liveness(holder) === "dead";
}
