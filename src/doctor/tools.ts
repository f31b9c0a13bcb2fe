import { findTool } from "../host/find.js";
import { installHint } from "../host/packages.js";
import { carryOut, hostTools, planSetup, type HostTool } from "../host/setup.js";
import { runTool } from "../host/tools.js";
import type { Check, Finding } from "./check.js";

/** One check for each program that smolvm calls: it is started and asked for its version. */
export const tools: readonly Check[] = hostTools().map((tool) => ({
  name: tool.name,
  run: (signal) => ask(tool, signal),
}));

async function ask(tool: HostTool, signal: AbortSignal): Promise<Finding> {
  const status = tool.required ? "failure" : "warning";
  if (findTool(tool.name) === null) {
    return {
      status,
      detail: `not installed; it ${tool.purpose}.`,
      mend: {
        say: installHint(tool.name),
        fix: { what: "install the missing programs", run: (during) => carryOut(planSetup(), { signal: during }) },
      },
    };
  }
  try {
    const { stdout } = await runTool(tool.name, ["--version"], { signal: AbortSignal.any([signal, deadline()]) });
    const version = /\d+(?:\.\d+)+/.exec(stdout)?.[0];
    if (version !== undefined) return { status: "ok", detail: version };
    return { status, detail: "does not say its version.", mend: { say: installHint(tool.name) } };
  } catch (error) {
    signal.throwIfAborted();
    const reason = error instanceof Error ? error.message : String(error);
    return { status, detail: `can't be started: ${reason}`, mend: { say: installHint(tool.name) } };
  }
}

const deadline = (): AbortSignal => AbortSignal.timeout(10_000);
