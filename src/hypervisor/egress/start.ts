import { spawn } from "node:child_process";
import type { Socket } from "node:net";
import { fileURLToPath } from "node:url";

import { HostError } from "../../errors.js";
import { confinedCommand } from "../qemu/confine.js";
import { confinementTools } from "../qemu/confinement-tools.js";
import { connectUnix } from "../socket.js";
import { EGRESS_SOCKETS } from "../types.js";

const READY_TIMEOUT_MS = 10_000;
const TRY_AGAIN =
  'The host is short of memory or processes: make room and start the machine again, or use network "restricted".';

/** By itself, as a program does that is not there for its user, or whose parts are not; not by a signal. */
class EndedAtOnce extends HostError {}

/**
 * Starts the egress filter for the QEMU whose sockets are in `folder`; they must be there. Resolves when it filters.
 * It outlives this program when the machine does, and ends when the machine's QEMU ends.
 *
 * @param uid the user that it becomes; null leaves this process's, without any capability.
 */
export async function startEgressFilter(folder: string, uid: number | null, signal?: AbortSignal): Promise<void> {
  // Connected here, as the filter may not even open a socket by its name; read from only there.
  const options = { timeoutMs: READY_TIMEOUT_MS, signal, paused: true };
  const out = await connectUnix(folder, EGRESS_SOCKETS.out, options);
  try {
    const back = await connectUnix(folder, EGRESS_SOCKETS.back, options);
    try {
      await startFilter(folder, [out, back], uid, signal).catch(async (error: unknown) => {
        signal?.throwIfAborted();
        // Node or this package may be in a folder that only root can read, so that no other user can run the filter. Only then:
        // one that is merely slow, or that this host has no room for, gets no further rights.
        if (uid === null || !(error instanceof EndedAtOnce)) throw error;
        await startFilter(folder, [out, back], null, signal);
      });
    } finally {
      back.destroy();
    }
  } finally {
    out.destroy();
  }
}

async function startFilter(
  folder: string,
  sockets: readonly Socket[],
  uid: number | null,
  signal?: AbortSignal,
): Promise<void> {
  const script = fileURLToPath(new URL("program.js", import.meta.url));
  const [program, args] = confinedCommand(
    process.execPath,
    ["--max-old-space-size=64", script],
    { uid, group: null, diesWith: null, addressSpace: null, fileSize: 0, cage: null },
    await confinementTools(),
  );
  const child = spawn(program, args, {
    cwd: folder,
    detached: true,
    env: {},
    stdio: ["ignore", "pipe", "ignore", ...sockets],
  });
  const { stdout } = child;
  if (stdout === null) throw new HostError("HOST_IO", "The egress filter has no output.");
  return new Promise<void>((resolve, reject) => {
    const settle = (error?: unknown): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      stdout.destroy();
      child.unref();
      if (error === undefined) {
        resolve();
        return;
      }
      child.kill("SIGKILL");
      reject(
        error instanceof Error ? error : new HostError("HOST_IO", "The egress filter was stopped.", { cause: error }),
      );
    };
    const aborted = (): void => settle(signal?.reason);
    const timer = setTimeout(
      () =>
        settle(
          new HostError("HOST_IO", `The egress filter was not ready within ${READY_TIMEOUT_MS} ms.`, {
            hint: TRY_AGAIN,
          }),
        ),
      READY_TIMEOUT_MS,
    );
    signal?.addEventListener("abort", aborted, { once: true });
    child.once("error", settle);
    child.once("exit", (_status, by) => {
      const Ended = by === null ? EndedAtOnce : HostError;
      settle(new Ended("HOST_IO", "The egress filter ended before it was ready.", { hint: TRY_AGAIN }));
    });
    stdout.once("data", () => settle());
  });
}
