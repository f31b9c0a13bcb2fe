import { spawn } from "node:child_process";

import { HostError } from "../errors.js";
import { findTool } from "./find.js";
import { installHint } from "./packages.js";

export { findTool };

/** The absolute path of a program; a HostError with the command that installs it where it is missing. */
export function requireTool(name: string): string {
  const path = findTool(name);
  if (path === null) {
    throw new HostError("HOST_TOOL_MISSING", `'${name}' is not installed.`, {
      hint: installHint(name),
      details: { tool: name },
    });
  }
  return path;
}

export interface ToolResult {
  readonly stdout: string;
  readonly stderr: string;
}

export interface ToolOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
}

/** Output beyond this is cut: what the tools here print is short, and a runaway one must not fill the memory. */
const OUTPUT_LIMIT = 4 * 1024 * 1024;

/** Runs a program to its end and gives what it printed. A non-zero exit is a HostError with the last lines of stderr. */
export async function runTool(name: string, args: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
  const path = requireTool(name);
  options.signal?.throwIfAborted();
  const child = spawn(path, args, {
    cwd: options.cwd,
    env: options.env ?? process.env,
    stdio: ["ignore", "pipe", "pipe"],
    ...(options.signal ? { signal: options.signal, killSignal: "SIGKILL" as const } : {}),
  });
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  const [status, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, by) => resolve([code, by]));
  }).catch((error: unknown) => {
    options.signal?.throwIfAborted();
    throw new HostError("HOST_TOOL_FAILED", `'${name}' could not be started.`, {
      hint: "Install it anew with: smolvm setup",
      cause: error,
      details: { tool: name },
    });
  });
  if (status !== 0) {
    const tail = stderr().trim().split("\n").slice(-5).join("\n");
    throw new HostError(
      "HOST_TOOL_FAILED",
      `'${name} ${args.join(" ")}' ended with ${signal ?? `exit status ${status ?? "?"}`}${tail === "" ? "." : `: ${tail}`}`,
      {
        hint: "Run the command by hand to see more, or look at the host with: smolvm doctor",
        details: { tool: name, args, status, signal, stderr: tail },
      },
    );
  }
  return { stdout: stdout(), stderr: stderr() };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream.on("data", (chunk: Buffer) => {
    if (size < OUTPUT_LIMIT) chunks.push(chunk);
    size += chunk.length;
  });
  return () => Buffer.concat(chunks).toString("utf8");
}
