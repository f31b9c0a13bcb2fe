import { execFile } from "node:child_process";
import { accessSync, constants, existsSync, realpathSync } from "node:fs";
import { promisify } from "node:util";

import { findTool } from "../../host/find.js";
import { makeFolder } from "../../host/folder.js";
import { machinesDir } from "../../host/home.js";
import { bootKey, programKey, recallVerdict, rememberVerdict } from "../verdicts.js";

/**
 * What an ordinary user can do who may not become another one: QEMU in a user namespace of its own, whose root folder holds
 * programs and libraries, read-only, and nothing of the user's.
 */
export interface Cage {
  readonly unshare: string;
  readonly shell: string;
  /** A folder to build the new root on. In the namespace only; what it holds is covered there. */
  readonly mountPoint: string;
  /** What is in the new root, at its own path. */
  readonly visible: readonly string[];
  /** What names the servers that QEMU's user network asks, if this host has such a file. */
  readonly resolver: string | null;
}

export interface CageNeeds {
  /** The host's network, for QEMU's user network and its forwarded ports. */
  readonly network: boolean;
  readonly kvm: boolean;
  /** The inherited descriptors that it opens by name: as `CAGED_DESCRIPTORS/N` in the cage. */
  readonly descriptors: readonly number[];
}

/** Where a caged program finds them, read-only: with /proc it could open them, and all it has inherited, for writing. */
export const CAGED_DESCRIPTORS = "/fd";

/** Where programs and their libraries are. A program elsewhere is not caged: nobody knows what it needs. */
const PROGRAMS = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu"];
const ALWAYS = ["/dev/null", "/dev/urandom", "/etc/ld.so.cache"];
const MOUNT_POINTS = ["/mnt", "/media", "/srv", "/tmp", "/var"];
const TRIAL_TIMEOUT_MS = 5000;

/**
 * Puts the working folder, the named descriptors and what is visible together under a new root and goes there. A link to a
 * folder stays a link, as in systems where /bin is one; anything else that is a link is what it leads to. umount wants a /proc,
 * so it has the old one for as long as that is there.
 */
const SCRIPT = `set -eu
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
top=$1 descriptors=$2 visible=$3
shift 3
mount -t tmpfs -o mode=0755,size=1m,nr_inodes=1k none "$top"
mkdir "$top/machine" "$top${CAGED_DESCRIPTORS}"
mount --bind . "$top/machine"
for fd in $descriptors; do
  : > "$top${CAGED_DESCRIPTORS}/$fd"
  mount --bind "/proc/self/fd/$fd" "$top${CAGED_DESCRIPTORS}/$fd"
  mount -o remount,bind,ro,nosuid,nodev "$top${CAGED_DESCRIPTORS}/$fd"
done
while [ "$visible" -gt 0 ]; do
  path=$1 visible=$((visible - 1))
  shift
  mkdir -p "$top\${path%/*}"
  if [ ! -d "$path" ]; then : > "$top$path"; mount --bind "$path" "$top$path"
  elif [ -h "$path" ]; then ln -s "$(readlink "$path")" "$top$path"
  else mkdir "$top$path"; mount --rbind "$path" "$top$path"; mount -o remount,bind,ro,nosuid,nodev "$top$path"
  fi
done
cd "$top"
mkdir old
ln -s old/proc proc
pivot_root . old
umount -l /old
rm proc
rmdir old
cd /machine
exec "$@"`;

/** The command prefix that cages what follows it. Pure. */
export function cagePrefix(cage: Cage, needs: CageNeeds): readonly string[] {
  const visible = [
    ...cage.visible,
    ...(needs.kvm ? ["/dev/kvm"] : []),
    ...(needs.network && cage.resolver !== null ? [cage.resolver] : []),
  ];
  return [
    ...[cage.unshare, "--user", "--map-root-user", "--mount", "--ipc", "--uts", ...(needs.network ? [] : ["--net"])],
    ...[cage.shell, "-c", SCRIPT, "cage", cage.mountPoint, needs.descriptors.join(" "), String(visible.length)],
    ...visible,
  ];
}

/**
 * The cage of this host for programs, if this process is an ordinary user's and user namespaces work for it. That they do is
 * remembered for this boot of the host; that they don't is tried anew, as its kernel's settings may be mended.
 *
 * @param programs all that is to run in it, the confined program first.
 */
export async function findCage(programs: readonly string[]): Promise<Cage | null> {
  if (process.platform !== "linux" || process.geteuid?.() === 0) return null;
  const [unshare, shell] = [findTool("unshare"), findTool("sh")];
  const machines = machinesDir();
  // What the new root is built on is covered by it, so the machines' folders must not be below.
  const mountPoint = MOUNT_POINTS.find((folder) => existsSync(folder) && !machines.startsWith(`${folder}/`));
  const arePrograms = programs.every((program) =>
    PROGRAMS.some((folder) => realpathSync(program).startsWith(`${folder}/`)),
  );
  if (unshare === null || shell === null || mountPoint === undefined || !arePrograms) return null;
  const visible = [...PROGRAMS, ...ALWAYS].filter((path) => existsSync(path));
  const resolver = existsSync("/etc/resolv.conf") ? "/etc/resolv.conf" : null;
  const cage = { unshare, shell, mountPoint, visible, resolver };
  const [program = ""] = programs;
  const key = `${await programKey(program)} ${mountPoint} ${process.geteuid?.() ?? ""} ${await bootKey()}`;
  if ((await recallVerdict("cage", key)) === true) return cage;
  if (!(await isPossible(cage, programs))) return null;
  await rememberVerdict("cage", key, true);
  return cage;
}

async function isPossible(cage: Cage, programs: readonly string[]): Promise<boolean> {
  makeFolder(machinesDir(), { mode: 0o700 });
  try {
    for (const program of programs) {
      const [, ...prefix] = cagePrefix(cage, { network: true, kvm: canOpenKvm(), descriptors: [] });
      await promisify(execFile)(cage.unshare, [...prefix, program, "--version"], {
        cwd: machinesDir(),
        timeout: TRIAL_TIMEOUT_MS,
        killSignal: "SIGKILL",
      });
    }
    return true;
  } catch {
    return false; // whatever the reason: then QEMU has what it had without
  }
}

export function canOpenKvm(): boolean {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
