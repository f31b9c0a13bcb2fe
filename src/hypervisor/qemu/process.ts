import { spawn, type ChildProcess } from "node:child_process";

import { HostError } from "../../errors.js";
import { processIdentity, type ProcessIdentity } from "../../host/process.js";
import type { QemuCommand } from "./argv.js";
import { CAGED_DESCRIPTORS, cagePrefix, findCage, type CageNeeds } from "./cage.js";
import { confinedCommand, type Confinement } from "./confine.js";
import { confinementTools } from "./confinement-tools.js";

export interface QemuExit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A QEMU that this process started. */
export interface QemuProcess {
  readonly identity: ProcessIdentity;
  /** Never rejects. */
  readonly exited: Promise<QemuExit>;
  readonly running: boolean;
  /** SIGKILL. */
  kill(): void;
  /** From now on it doesn't keep this program alive. */
  unref(): void;
}

/**
 * Starts QEMU in `folder`, confined, with its own messages going to `logFd`. It has a session of its own: a Ctrl-C on this
 * program's terminal is for this program to act on. It keeps this program alive until `unref()`.
 *
 * @throws HostError HOST_TOOL_FAILED when it can't be started, and what `confinementTools` throws.
 */
export async function startQemu(
  binary: string,
  command: (descriptorFolder?: string) => QemuCommand,
  options: {
    readonly folder: string;
    readonly logFd: number;
    readonly confinement: Omit<Confinement, "cage">;
    readonly needs: Omit<CageNeeds, "descriptors">;
  },
): Promise<QemuProcess> {
  const tools = await confinementTools();
  const helpers = [tools.setpriv, tools.prlimit].filter((path) => path !== null);
  const found = tools.setpriv === null ? null : await findCage([binary, ...helpers]);
  const { args: own, files, named } = command(found === null ? undefined : CAGED_DESCRIPTORS);
  const cage = found === null ? null : cagePrefix(found, { ...options.needs, descriptors: named });
  const [program, args] = confinedCommand(binary, own, { ...options.confinement, cage }, tools);
  const child = spawn(program, args, {
    cwd: options.folder,
    detached: true,
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", LC_ALL: "C" },
    stdio: ["ignore", options.logFd, options.logFd, ...files],
  });
  const exited = new Promise<QemuExit>((resolve) => {
    child.once("exit", (status, signal) => resolve({ status, signal }));
  });
  await spawned(child, binary);
  const identity = processIdentity(child.pid);
  if (identity === null) {
    child.kill("SIGKILL"); // it may be that it only can't be looked at, and nobody could end it later
    await exited;
    throw new HostError("HOST_TOOL_FAILED", `'${binary}' ended at once, or this host can't look at it.`, {
      hint: "Look at qemu.log in the machine's folder, or ask: smolvm doctor",
      details: { binary },
    });
  }
  return {
    identity,
    exited,
    get running() {
      return child.exitCode === null && child.signalCode === null;
    },
    kill() {
      child.kill("SIGKILL");
    },
    unref() {
      child.unref();
    },
  };
}

function spawned(child: ChildProcess, binary: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", (error) => {
      reject(
        new HostError("HOST_TOOL_FAILED", `'${binary}' can't be started.`, {
          hint: "Install it anew with: smolvm setup",
          cause: error,
          details: { binary },
        }),
      );
    });
  });
}
