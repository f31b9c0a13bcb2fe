import { execFile } from "node:child_process";
import { accessSync, constants, existsSync, realpathSync } from "node:fs";
import { promisify } from "node:util";

import { findTool } from "../../host/find.js";
import { makeFolder } from "../../host/folder.js";
import { smolvmHome } from "../../host/home.js";
import { bootKey, programKey, recallVerdict, rememberVerdict } from "../verdicts.js";

/**
 * What an ordinary user can do who may not become another one: QEMU in a user namespace of its own, whose root folder holds
 * programs and libraries and nothing of the user's.
 */
export interface Cage {
  readonly unshare: string;
  readonly shell: string;
  /** A folder to build the new root on. In the namespace only; what it holds is covered there. */
  readonly mountPoint: string;
  /** What is in the new root, at its own path. */
  readonly visible: readonly string[];
}

export interface CageNeeds {
  /** The host's network, for QEMU's user network and its forwarded ports. */
  readonly network: boolean;
  readonly kvm: boolean;
}

/** Where programs and their libraries are. A program elsewhere is not caged: nobody knows what it needs. */
const PROGRAMS = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu"];
/** The inherited descriptors are opened by their names in /proc; another process's files can't be reached by it from here. */
const ALWAYS = ["/proc", "/dev/null", "/dev/urandom", "/etc/ld.so.cache"];
const MOUNT_POINTS = ["/mnt", "/media", "/srv", "/tmp"];
const TRIAL_TIMEOUT_MS = 5000;

/**
 * Puts the working folder and what is visible together under a new root and goes there. A link to a folder stays a link, as in
 * systems where /bin is one; anything else that is a link is what it leads to.
 */
const SCRIPT = `set -eu
top=$1 count=$2
shift 2
mount -t tmpfs -o mode=0755,size=1m,nr_inodes=1k none "$top"
mkdir "$top/machine"
mount --bind . "$top/machine"
while [ "$count" -gt 0 ]; do
  path=$1 count=$((count - 1))
  shift
  mkdir -p "$top\${path%/*}"
  if [ ! -d "$path" ]; then : > "$top$path"; mount --bind "$path" "$top$path"
  elif [ -h "$path" ]; then ln -s "$(readlink "$path")" "$top$path"
  else mkdir "$top$path"; mount --rbind "$path" "$top$path"
  fi
done
cd "$top"
pivot_root . .
umount -l .
cd /machine
exec "$@"`;

/** The command prefix that cages what follows it. Pure. The tools that it names must be visible in the cage. */
export function cagePrefix(cage: Cage, needs: CageNeeds): readonly string[] {
  const visible = [
    ...cage.visible,
    ...(needs.kvm ? ["/dev/kvm"] : []),
    ...(needs.network ? ["/etc/resolv.conf"] : []), // QEMU's user network asks the servers that are named there
  ];
  return [
    ...[cage.unshare, "--user", "--map-root-user", "--mount", "--ipc", "--uts", ...(needs.network ? [] : ["--net"])],
    ...[cage.shell, "-c", SCRIPT, "cage", cage.mountPoint, String(visible.length), ...visible],
  ];
}

/**
 * The cage of this host for a program, if this process is an ordinary user's and user namespaces work for it: tried once for
 * each boot of the host, as its kernel's settings, AppArmor or a container around it may forbid them.
 */
export async function findCage(program: string): Promise<Cage | null> {
  if (process.platform !== "linux" || process.geteuid?.() === 0) return null;
  const [unshare, shell] = [findTool("unshare"), findTool("sh")];
  const mountPoint = MOUNT_POINTS.find((folder) => existsSync(folder));
  const isProgram = PROGRAMS.some((folder) => realpathSync(program).startsWith(`${folder}/`));
  if (unshare === null || shell === null || mountPoint === undefined || !isProgram) return null;
  const visible = [...PROGRAMS, ...ALWAYS].filter((path) => existsSync(path));
  const cage = { unshare, shell, mountPoint, visible };
  const key = `${await programKey(program)} ${process.geteuid?.() ?? ""} ${await bootKey()}`;
  const known = await recallVerdict("cage", key);
  const works = typeof known === "boolean" ? known : await isPossible(cage, program);
  if (known === undefined) await rememberVerdict("cage", key, works);
  return works ? cage : null;
}

async function isPossible(cage: Cage, program: string): Promise<boolean> {
  const [, ...prefix] = cagePrefix(cage, { network: false, kvm: canOpenKvm() });
  try {
    makeFolder(smolvmHome(), { mode: 0o700 });
    await promisify(execFile)(cage.unshare, [...prefix, program, "--version"], {
      cwd: smolvmHome(),
      timeout: TRIAL_TIMEOUT_MS,
      killSignal: "SIGKILL",
    });
    return true;
  } catch {
    return false; // whatever the reason: then QEMU has what it had without
  }
}

function canOpenKvm(): boolean {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
