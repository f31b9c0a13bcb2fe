import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";

import { HostError } from "../../errors.js";
import { findTool } from "../../host/find.js";
import { installHint } from "../../host/packages.js";
import { programKey, recallVerdict, rememberVerdict } from "../verdicts.js";
import { confinedCommand, type ConfinementTools } from "./confine.js";

const TRIAL_TIMEOUT_MS = 5000;
/** "nobody": a user that every system has. */
const TRIAL_UID = 65534;

/**
 * The tools that confine what works for a guest, each tried once with all that is asked of it: BusyBox has programs of the
 * same names that know less, and a container may lack the rights.
 * @throws HostError when this process is root's and they don't work: nothing runs for a guest with root's rights.
 */
export async function confinementTools(): Promise<ConfinementTools> {
  const root = process.geteuid?.() === 0;
  // One after the other: verdicts that are remembered at once overwrite each other.
  const tools = {
    setpriv: await workingTool("setpriv", root),
    prlimit: await workingTool("prlimit", root),
    // Not the first one of the PATH: this one the cage has, too, and any user can run it.
    shell: existsSync("/bin/sh") ? "/bin/sh" : null,
    root,
  };
  if (!root || process.platform !== "linux" || (tools.setpriv !== null && tools.prlimit !== null)) return tools;
  const missing = tools.setpriv === null ? "setpriv" : "prlimit";
  throw new HostError(
    findTool(missing) === null ? "HOST_TOOL_MISSING" : "HOST_TOOL_FAILED",
    `'${missing}' is needed to take root's rights from a machine, and ${findTool(missing) === null ? "is not installed" : "does not work here"}.`,
    {
      hint: `${installHint(missing)} It is that of util-linux; in a container it needs the capabilities setuid, setgid and setpcap. Or run as an ordinary user.`,
      details: { tool: missing },
    },
  );
}

async function workingTool(name: "setpriv" | "prlimit", root: boolean): Promise<string | null> {
  const path = findTool(name);
  return path !== null && (await works(name, path, root)) ? path : null;
}

async function works(name: "setpriv" | "prlimit", path: string, root: boolean): Promise<boolean> {
  const key = `${await programKey(path)} ${root ? "root" : "user"}`;
  const known = await recallVerdict(name, key);
  if (known === true) return true;
  const alone = { setpriv: null, prlimit: null, shell: null, root, [name]: path };
  const confinement = {
    uid: root ? TRIAL_UID : null,
    group: null,
    diesWith: process.pid,
    addressSpace: 1024 ** 3,
    fileSize: 1024 ** 2,
    cage: null,
  };
  const [program, args] = confinedCommand(findTool("true") ?? path, [], confinement, alone);
  try {
    await promisify(execFile)(program, args, { timeout: TRIAL_TIMEOUT_MS, killSignal: "SIGKILL" });
  } catch {
    return false; // whatever the reason, it is no use; tried again next time, as a person may mend it
  }
  await rememberVerdict(name, key, true);
  return true;
}
