import { spawn } from "node:child_process";

import { HostError } from "../errors.js";
import { findTool } from "./find.js";
import { installCommands, packageManager, type PackageManager } from "./packages.js";

/** A program that smolvm calls. */
export interface HostTool {
  readonly name: string;
  readonly purpose: string;
  /** Nothing runs without it. The others are needed for some images only. */
  readonly required: boolean;
}

/** What the library calls on a host of this kind, the most important first. */
export function hostTools(
  platform: NodeJS.Platform = process.platform,
  arch: string = process.arch,
): readonly HostTool[] {
  const tools: HostTool[] = [
    { name: qemuFor(arch), purpose: "runs the machines", required: true },
    { name: "qemu-img", purpose: "makes the machines' disks", required: true },
  ];
  if (platform === "linux") {
    tools.push(
      { name: "setpriv", purpose: "takes privileges from QEMU", required: true },
      { name: "prlimit", purpose: "limits what QEMU may use", required: true },
    );
  }
  tools.push(
    { name: "xz", purpose: "unpacks .xz images", required: false },
    { name: "zstd", purpose: "unpacks .zst images", required: false },
  );
  return tools;
}

/** QEMU's program for machines of the host's own architecture, which Node names in its own way. */
function qemuFor(arch: string): string {
  return `qemu-system-${arch === "arm64" ? "aarch64" : "x86_64"}`;
}

export interface SetupPlan {
  readonly missing: readonly HostTool[];
  /** Null when none is known for this system. */
  readonly manager: PackageManager | null;
  /** The exact commands, in order. Empty when nothing is missing. */
  readonly commands: readonly (readonly string[])[];
}

/** What has to be installed here, and how. Looks only; nothing is run. */
export function planSetup(): SetupPlan {
  const missing = hostTools().filter((tool) => findTool(tool.name) === null);
  const manager = packageManager();
  const commands =
    manager === null
      ? []
      : installCommands(
          manager,
          missing.map((tool) => tool.name),
        );
  return { missing, manager, commands };
}

/**
 * Runs the commands of a plan, with their output on this program's stderr.
 *
 * @throws HostError when a command fails, when it needs root and there is no sudo, or when a program is still missing afterwards.
 */
export async function carryOut(plan: SetupPlan, options: { signal?: AbortSignal } = {}): Promise<void> {
  for (const command of plan.commands) {
    options.signal?.throwIfAborted();
    await runVisibly(command, options.signal);
  }
  const still = plan.missing.filter((tool) => tool.required && findTool(tool.name) === null);
  if (still.length > 0) {
    const names = still.map((tool) => `'${tool.name}'`).join(", ");
    throw new HostError("HOST_TOOL_MISSING", `${names} is still missing after the installation.`, {
      hint: "See what the package manager printed above.",
      details: { missing: still.map((tool) => tool.name) },
    });
  }
}

async function runVisibly(command: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  const [program = "", ...args] = command;
  if (program === "sudo" && findTool("sudo") === null) {
    throw new HostError("HOST_PERMISSION", "Installing packages needs root, and there is no sudo here.", {
      hint: `Run as root: ${args.join(" ")}`,
    });
  }
  const child = spawn(program, args, { stdio: ["inherit", 2, 2], ...(signal ? { signal } : {}) });
  const status = await new Promise<string | number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, by) => resolve(code ?? by ?? "?"));
  });
  if (status !== 0) {
    throw new HostError("HOST_TOOL_FAILED", `'${command.join(" ")}' ended with ${status}.`, {
      hint: "See what it printed above.",
      details: { command, status },
    });
  }
}
