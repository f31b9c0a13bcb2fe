import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import type { Order } from "./ensure.js";

const PROGRAM = fileURLToPath(new URL("./ensure.js", import.meta.url));

export interface EnsureChild {
  readonly process: ChildProcess;
  /** When its program is loaded and it begins. */
  readonly ready: Promise<void>;
  /** Its exit status, null if it was killed. */
  readonly ended: Promise<number | null>;
  readonly errors: () => string;
}

/** Starts a real process that brings images. */
export function startEnsure(order: Order): EnsureChild {
  const child = spawn(process.execPath, ["--no-warnings", PROGRAM, JSON.stringify(order)], {
    stdio: ["ignore", "pipe", "pipe"],
    // Node reads these at every start, which takes as long again as the start itself. Nothing here speaks TLS.
    env: { ...process.env, NODE_EXTRA_CA_CERTS: "" },
  });
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  const ended = once(child, "close").then(([status]) => status as number | null);
  const ready = Promise.race([
    once(child.stdout, "data").then(() => undefined),
    ended.then(() => Promise.reject(new Error(`the child ended at once: ${errors}`))),
  ]);
  ready.catch(() => undefined); // whoever does not wait for it sees the failure in `ended`
  return { process: child, ready, ended, errors: () => errors };
}
