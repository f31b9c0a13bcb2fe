import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";

import { HostError } from "../../errors.js";
import type { GuestArch } from "../../guest/index.js";
import { requireTool } from "../../host/tools.js";
import { isObject } from "../../json.js";
import { programKey, recallVerdict, rememberVerdict } from "../verdicts.js";

/** What one QEMU build on this host can do. */
export interface QemuFacts {
  readonly binary: string;
  readonly version: string;
  /** It was built with the system call filter. */
  readonly sandbox: boolean;
  /** The small x86 firmware is installed beside it. */
  readonly qboot: boolean;
  /** It can divert a network's frames through another process. */
  readonly redirector: boolean;
}

/** The oldest QEMU whose options are all known to be those that are used here. */
const OLDEST = [6, 0] as const;
const ASK_TIMEOUT_MS = 10_000;

export function qemuBinaryName(arch: GuestArch): string {
  return `qemu-system-${arch}`;
}

/**
 * Asks the QEMU for an architecture what it can do, once for each build of it.
 *
 * @throws HostError HOST_TOOL_MISSING with the command that installs it, HOST_UNSUPPORTED when it is too old,
 *   HOST_TOOL_FAILED when it doesn't start.
 */
export async function qemuFacts(arch: GuestArch): Promise<QemuFacts> {
  const binary = requireTool(qemuBinaryName(arch));
  const key = await programKey(binary);
  const known = await recallVerdict(`qemu-${arch}`, key);
  if (isQemuFacts(known) && known.binary === binary) return known;
  const [monitor, folders] = await Promise.all([askMonitor(binary), ask(binary, ["-L", "help"], "")]);
  const facts: QemuFacts = {
    binary,
    ...monitor,
    qboot: folders.split("\n").some((folder) => folder !== "" && existsSync(join(folder.trim(), "qboot.rom"))),
  };
  await rememberVerdict(`qemu-${arch}`, key, facts);
  return facts;
}

const QUESTIONS = [
  { execute: "qmp_capabilities" },
  { execute: "query-version", id: "version" },
  { execute: "query-command-line-options", id: "sandbox", arguments: { option: "sandbox" } },
  { execute: "qom-list-types", id: "redirector", arguments: { implements: "filter-redirector" } },
  { execute: "quit" },
];

async function askMonitor(binary: string): Promise<Pick<QemuFacts, "version" | "sandbox" | "redirector">> {
  const output = await ask(
    binary,
    ["-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"],
    QUESTIONS.map((question) => `${JSON.stringify(question)}\n`).join(""),
  );
  const answers = new Map<unknown, unknown>();
  for (const line of output.split("\n")) {
    if (!line.startsWith("{")) continue;
    const message: unknown = JSON.parse(line);
    if (isObject(message)) answers.set(message["id"], message["return"]);
  }
  const version = answers.get("version");
  const numbers = isObject(version) && isObject(version["qemu"]) ? version["qemu"] : {};
  const [major, minor, micro] = [Number(numbers["major"]), Number(numbers["minor"]), Number(numbers["micro"])];
  if (!(major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]))) {
    throw new HostError("HOST_UNSUPPORTED", `'${binary}' is version ${major}.${minor}; 6.0 is the oldest that works.`, {
      hint: "Install a newer QEMU.",
      details: { binary },
    });
  }
  const nonEmpty = (id: string): boolean => {
    const list = answers.get(id);
    return Array.isArray(list) && list.length > 0;
  };
  return { version: `${major}.${minor}.${micro}`, sandbox: nonEmpty("sandbox"), redirector: nonEmpty("redirector") };
}

async function ask(binary: string, args: readonly string[], input: string): Promise<string> {
  const child = spawn(binary, args, {
    stdio: ["pipe", "pipe", "pipe"],
    timeout: ASK_TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  child.stdin.on("error", () => undefined); // it may end before it has read everything; its exit status tells
  child.stdin.end(input);
  const [status, signal] = (await once(child, "close").catch((error: unknown) => {
    throw new HostError("HOST_TOOL_FAILED", `'${binary}' can't be started.`, {
      hint: "Install it anew with: smolvm setup",
      cause: error,
      details: { binary },
    });
  })) as [number | null, NodeJS.Signals | null];
  if (status === 0) return stdout;
  throw new HostError(
    "HOST_TOOL_FAILED",
    `'${binary}' does not work: it ended with ${signal ?? `exit status ${status ?? "?"}`}. ${stderr.trim()}`,
    { hint: "Install it anew with: smolvm setup", details: { binary, args, stderr } },
  );
}

function isQemuFacts(value: unknown): value is QemuFacts {
  return (
    isObject(value) &&
    typeof value["binary"] === "string" &&
    typeof value["version"] === "string" &&
    typeof value["sandbox"] === "boolean" &&
    typeof value["qboot"] === "boolean" &&
    typeof value["redirector"] === "boolean"
  );
}
