import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

import { HostError } from "../../errors.js";

const READY_TIMEOUT_MS = 10_000;

/**
 * Starts the egress filter for the QEMU whose sockets are in `folder`; they must be there. Resolves when it filters.
 * It outlives this program when the machine does, and ends when the machine's QEMU ends.
 */
export function startEgressFilter(folder: string, signal?: AbortSignal): Promise<void> {
  const program = fileURLToPath(new URL("program.js", import.meta.url));
  const child = spawn(process.execPath, ["--max-old-space-size=64", program], {
    cwd: folder,
    detached: true,
    env: {},
    stdio: ["ignore", "pipe", "ignore"],
  });
  return new Promise<void>((resolve, reject) => {
    const settle = (error?: unknown): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      child.stdout.destroy();
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
      () => settle(new HostError("HOST_IO", `The egress filter was not ready within ${READY_TIMEOUT_MS} ms.`)),
      READY_TIMEOUT_MS,
    );
    signal?.addEventListener("abort", aborted, { once: true });
    child.once("error", settle);
    child.once("exit", () => settle(new HostError("HOST_IO", "The egress filter ended before it was ready.")));
    child.stdout.once("data", () => settle());
  });
}
