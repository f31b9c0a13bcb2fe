import { readFile } from "node:fs/promises";

import { BootError, HostError } from "../errors.js";
import type { Accelerator, QemuExit } from "../hypervisor/index.js";
import { printable } from "../printable.js";
import { consoleTail } from "./console-log.js";
import type { MachineFiles } from "./state.js";

/** How far a start came: QEMU being started, its guest's kernel booting, the agent answering, the guest being set up. */
export type BootPhase = "spawn" | "kernel" | "agent" | "configure";

export interface Ending {
  readonly vmId: string;
  readonly phase: BootPhase;
  readonly accelerator: Accelerator;
  readonly cause: unknown;
  /** Set when QEMU ended by itself. */
  readonly exit?: QemuExit;
  /** Set when the time was up. */
  readonly timeoutMs?: number;
}

const LOG_LIMIT = 2000;
const TAIL_LINES = 40;

/** The error for a guest that did not come up, with what QEMU and the guest's console said. */
export async function bootFailure(files: MachineFiles, ending: Ending): Promise<Error> {
  const { vmId, phase, accelerator, cause, exit, timeoutMs } = ending;
  if (cause instanceof HostError) return cause;
  const text = await readFile(files.log, "utf8").catch(() => ""); // not written yet
  const log = text.split("\n").map(printable).join("\n").trim().slice(-LOG_LIMIT);
  const tail = consoleTail(files.console, TAIL_LINES);
  const complaint = log.split("\n").at(-1) ?? "";
  const failure = {
    phase,
    accelerator,
    consoleTail: tail,
    cause,
    details: { vmId, qemuLog: log, ...(exit ? { exit } : {}), ...(timeoutMs === undefined ? {} : { timeoutMs }) },
  };
  if (exit !== undefined && (exit.status !== 0 || tail.length === 0)) {
    const how = exit.signal ?? `exit status ${exit.status ?? "?"}`;
    return new BootError(`QEMU ended with ${how} while the guest was booting${complaint && `: ${complaint}`}`, {
      ...failure,
      hint: "What QEMU said is in details.qemuLog. Look at the host with: smolvm doctor",
    });
  }
  if (exit !== undefined) {
    return new BootError(`The guest ended while it was booting: ${lastWords(files)}`, {
      ...failure,
      hint: "Look at consoleTail. A kernel of modules needs the initrd (initrdPath) that belongs to it.",
    });
  }
  if (timeoutMs !== undefined) {
    return new BootError(`The guest did not come up within ${timeoutMs} ms; last on its console: ${lastWords(files)}`, {
      ...failure,
      hint: "Give start() more time, or look at the console for what it waits for.",
    });
  }
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new BootError(`The guest could not be set up: ${reason}`, {
    ...failure,
    hint: "What the guest said is in consoleTail.",
  });
}

/** What says most: a panic, else what the agent complained of before it gave up, else whatever came last. */
function lastWords(files: MachineFiles): string {
  const tail = consoleTail(files.console, 500);
  const panic = tail.find((line) => line.includes("Kernel panic"));
  const agent = tail.filter((line) => line.includes("smolvm: "));
  const complaint = agent[agent.findLastIndex((line) => line.endsWith("smolvm: boot failed")) - 1];
  return panic ?? complaint ?? tail.at(-1) ?? "nothing";
}
