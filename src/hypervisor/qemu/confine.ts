import type { MachineSpec } from "../types.js";
import { translationCacheMib } from "./argv.js";

/** What the host lets a process have that works for a guest: QEMU, and the egress filter. */
export interface Confinement {
  /** The user and group it runs as, with no capability and no other group; null leaves those of this process. */
  readonly uid: number | null;
  /** A further group, such as that of /dev/kvm. */
  readonly group: number | null;
  /** The pid of this program, where it gets SIGKILL when the thread that started it ends, however that happens. Linux only. */
  readonly diesWith: number | null;
  /** Bytes of address space; null leaves it, as for programs that reserve far more than they use. */
  readonly addressSpace: number | null;
  /** Bytes that a file of it may have. */
  readonly fileSize: number;
  /** The command prefix that gives it a user namespace with a root folder of its own, if it is to have one. */
  readonly cage: readonly string[] | null;
}

/** Where the tools are that confine a process; null where this host lacks one. */
export interface ConfinementTools {
  readonly setpriv: string | null;
  readonly prlimit: string | null;
  readonly shell: string | null;
  /** This process is root's, so that it can give rights away. */
  readonly root: boolean;
}

const MIB = 1024 * 1024;
/** QEMU's libraries, its threads' stacks and their allocation arenas: about 1.2 GiB of addresses, hardly any of it memory. */
const OVERHEAD_MIB = 2048;
/** Worker threads of QEMU's disk layer included. */
const PROCESSES = 256;
const OPEN_FILES = 4096;

/** Its `$0` is the pid that has to be its parent's. A shell adds the folder's path to the environment, which is nobody's business. */
const ONLY_IF_PARENT = 'unset PWD OLDPWD; [ "$PPID" = "$0" ] && exec "$@"';

export function addressSpaceLimit(spec: Pick<MachineSpec, "memoryMib">): number {
  return (spec.memoryMib + translationCacheMib(spec.memoryMib) + OVERHEAD_MIB) * MIB;
}

/** The command prefix that confines what it starts, outermost first. Pure. Each program ends by becoming the next one. */
export function confinedCommand(
  program: string,
  args: readonly string[],
  confinement: Confinement,
  tools: ConfinementTools,
): readonly [program: string, args: readonly string[]] {
  const command: string[] = [];
  if (tools.setpriv !== null) {
    command.push(tools.setpriv, "--no-new-privs");
    if (confinement.uid !== null) {
      const id = String(confinement.uid);
      command.push("--reuid", id, "--regid", id);
      command.push(...(confinement.group === null ? ["--clear-groups"] : ["--groups", String(confinement.group)]));
    }
    // In its namespace it has all rights: enough to make its root, and then given away.
    if (confinement.cage !== null) command.push(...confinement.cage, tools.setpriv);
    if (tools.root || confinement.cage !== null) command.push("--bounding-set=-all", "--inh-caps=-all");
    if (confinement.diesWith !== null) {
      command.push("--pdeathsig", "KILL");
      // The signal comes only for an end from here on; a program that was killed before is not its parent any more.
      if (tools.shell !== null) command.push(tools.shell, "-c", ONLY_IF_PARENT, String(confinement.diesWith));
    }
  }
  if (tools.prlimit !== null) {
    command.push(tools.prlimit, "--core=0", `--fsize=${confinement.fileSize}`, `--nofile=${OPEN_FILES}`);
    if (confinement.addressSpace !== null) command.push(`--as=${confinement.addressSpace}`);
    // The limit counts all processes of a user, so it can be set only for a user that has no others.
    if (confinement.uid !== null) command.push(`--nproc=${PROCESSES}`);
  }
  const [first, ...rest] = [...command, program, ...args];
  return [first ?? program, rest];
}
