import { readFileSync } from "node:fs";

import type { QemuExit } from "../hypervisor/index.js";
import { printable } from "../printable.js";
import { consoleTail } from "./console-log.js";
import type { MachineFiles } from "./state.js";

export interface Death {
  /** A guest that powered off leaves a stopped machine; anything else an error. */
  readonly status: "stopped" | "error";
  /** Null when it was asked to stop. */
  readonly reason: string | null;
}

const PANIC = /Kernel panic - not syncing: (.*)/;

/** Why a machine that nobody stopped is not running any more, from what it left behind. `exit` is null when unknown. */
export function explainDeath(files: MachineFiles, exit: QemuExit | null): Death & { readonly reason: string } {
  const panic = consoleTail(files.console, 500)
    .map((line) => PANIC.exec(line)?.[1])
    .find((found) => found !== undefined);
  if (panic !== undefined) return { status: "error", reason: `the guest's kernel panicked: ${panic.slice(0, 200)}` };
  if (exit !== null && exit.status !== 0) {
    const complaint = lastLine(files.log);
    const how = exit.signal === null ? `exit status ${exit.status ?? "?"}` : exit.signal;
    return { status: "error", reason: `QEMU ended with ${how}${complaint === "" ? "" : `: ${complaint}`}` };
  }
  return { status: "stopped", reason: "the guest powered off" };
}

function lastLine(path: string): string {
  try {
    return printable(readFileSync(path, "utf8").trim().split("\n").at(-1) ?? "");
  } catch {
    return ""; // nothing was said, or the machine is deleted
  }
}
