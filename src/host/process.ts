import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

import { isErrno } from "./errno.js";

/**
 * Names one process for as long as this host runs. A pid alone is not enough: it is reused, and a cache folder may be
 * shared between hosts or between containers that number their processes apart.
 */
export interface ProcessIdentity {
  readonly pid: number;
  /** When it started, in the host's own unit: clock ticks since boot on Linux, a date on macOS. */
  readonly started: string;
  /** The host and its name, its boot, and the pid namespace that `pid` belongs to. */
  readonly scope: Scope;
}

interface Scope {
  readonly host: string;
  readonly boot: string;
  readonly namespace: string;
}

let scope: Scope | undefined;

function currentScope(): Scope {
  scope ??=
    process.platform === "linux"
      ? {
          // Machines that were cloned, and containers of one make, have the same id: their names mostly differ.
          host: `${readOrEmpty("/etc/machine-id")} ${hostname()}`,
          boot: readOrEmpty("/proc/sys/kernel/random/boot_id"),
          // The namespace's inode number stands for "which container".
          namespace: readLinkOrEmpty("/proc/self/ns/pid"),
        }
      : {
          // The name of a Mac changes with the network it is in; these two do not.
          host:
            /"IOPlatformUUID" = "([^"]+)"/.exec(askOrEmpty("ioreg", "-rd1", "-c", "IOPlatformExpertDevice"))?.[1] ??
            hostname(),
          boot: askOrEmpty("sysctl", "-n", "kern.bootsessionuuid"),
          namespace: "",
        };
  return scope;
}

/** What a program of the system prints, in its own language and in UTC whatever the user has set. Throws where it can't be started. */
function ask(program: string, ...args: readonly string[]): string {
  // Not imported above: Linux has no use for it, and loading it takes time.
  const { spawnSync } = process.getBuiltinModule("node:child_process");
  const env = { PATH: "/usr/bin:/bin:/usr/sbin:/sbin", LC_ALL: "C", TZ: "UTC" };
  const { stdout, error } = spawnSync(program, args, { encoding: "utf8", env, stdio: ["ignore", "pipe", "ignore"] });
  if (error !== undefined) throw error;
  return stdout.trim();
}

function askOrEmpty(program: string, ...args: readonly string[]): string {
  try {
    return ask(program, ...args);
  } catch {
    return ""; // a system without it: then this part tells nothing apart
  }
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return ""; // a system without it: then this part tells nothing apart
  }
}

function readLinkOrEmpty(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // no namespaces in this kernel: then there is only one
  }
}

/**
 * When the process started, or null if there is no such process. A zombie counts as gone: it holds nothing. Throws where it
 * can't be looked at.
 */
function startTime(pid: number): string | null {
  try {
    if (process.platform === "linux") {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      // The second field is the program's name in parentheses and may hold spaces and parentheses itself.
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return fields[0] === "Z" ? null : (fields[19] ?? null);
    }
    const started = ask("ps", "-o", "lstart=", "-p", String(pid));
    return started === "" ? null : started;
  } catch (error) {
    // Too many open files, say, is no sign of death. Nor is a /proc that hides the processes of other users (`hidepid`).
    if (process.platform === "linux" && isErrno(error, ...GONE) && !isThere(pid)) return null;
    throw error;
  }
}

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return !isErrno(error, "ESRCH");
  }
}

/** What the system answers about a process that is not there, or that ends while it is looked at. */
const GONE = ["ENOENT", "ESRCH"];

/** The identity of a process that runs now: this one by default. Null if there is none of that pid. */
export function processIdentity(pid: number = process.pid): ProcessIdentity | null {
  try {
    const started = startTime(pid);
    return started === null ? null : { pid, started, scope: currentScope() };
  } catch {
    return null; // it could not be looked at: it goes without a name, and its heartbeat has to do
  }
}

/**
 * "alive" and "dead" are certain; "unknown" is another host or another container, which this one can't look into: judge it by
 * its heartbeat.
 */
export function liveness(identity: ProcessIdentity): "alive" | "dead" | "unknown" {
  const here = currentScope();
  // An equal boot is the same kernel, whatever the host is called by now.
  if (here.boot === "" || identity.scope.boot !== here.boot) {
    if (identity.scope.host !== here.host) return "unknown";
    if (identity.scope.boot !== here.boot) return "dead"; // this host has started anew since
  }
  if (identity.scope.namespace !== here.namespace) return "unknown";
  try {
    return startTime(identity.pid) === identity.started ? "alive" : "dead";
  } catch {
    return "unknown"; // it could not be looked at
  }
}
