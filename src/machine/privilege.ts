import { randomInt } from "node:crypto";
import { chmod, chown, copyFile, mkdir, readdir, readFile, rm, stat } from "node:fs/promises";

import { HostError } from "../errors.js";
import type { Accelerator } from "../hypervisor/index.js";
import type { MachineFiles } from "./state.js";

/** The user and group that a machine's QEMU runs as. */
export interface MachineUser {
  readonly uid: number;
  /** A further group that it needs, for /dev/kvm. */
  readonly group: number | null;
}

/** Far above every distribution's ranges, also those handed out to containers by default. */
const FIRST_UID = 0x5a00_0000;
const UIDS = 0x0100_0000;
/** "nobody", where this user namespace has no such high numbers. */
const FALLBACK_UID = 65534;

/**
 * A user of its own for each machine when this program runs as root, so that one QEMU that a guest has broken into can reach
 * neither the host's files nor another machine. Null for an ordinary user, who can't become another one.
 */
export async function machineUser(accelerator: Accelerator): Promise<MachineUser | null> {
  if (process.platform !== "linux" || process.geteuid?.() !== 0) return null;
  const wanted = FIRST_UID + randomInt(UIDS);
  const uid = (await isMapped(wanted)) ? wanted : FALLBACK_UID;
  if (accelerator !== "kvm") return { uid, group: null };
  const { mode, gid } = await stat("/dev/kvm");
  if ((mode & 0o006) === 0o006) return { uid, group: null };
  // A device for root alone can be opened by root alone.
  return (mode & 0o060) === 0o060 ? { uid, group: gid } : null;
}

/** Lines of /proc/self/uid_map: first id inside, first id outside, how many. */
async function isMapped(uid: number): Promise<boolean> {
  const map = await readFile("/proc/self/uid_map", "utf8");
  return map
    .trim()
    .split("\n")
    .some((line) => {
      const [first = 0, , count = 0] = line.trim().split(/\s+/).map(Number);
      return uid >= first && uid < first + count;
    });
}

/** An empty folder for QEMU's sockets, the only place that it can change, and only until its guest answers. */
export async function prepareSocketFolder(files: MachineFiles, user: MachineUser | null): Promise<void> {
  await rm(files.sockets, { recursive: true, force: true });
  await mkdir(files.sockets, { mode: 0o700 });
  if (user !== null) await chown(files.sockets, user.uid, user.uid);
}

/**
 * Takes the folder from QEMU's user once all its sockets are there and the guest answers. A QEMU that a guest has broken into
 * could otherwise put a link to another machine's socket in the place of its own, for this program to follow with root's rights.
 *
 * @throws HostError when something else than sockets is in it by then.
 */
export async function sealSocketFolder(files: MachineFiles, user: MachineUser | null): Promise<void> {
  if (user === null) return; // it and this program are the same user: there is nothing to be had
  await chown(files.sockets, 0, 0);
  for (const entry of await readdir(files.sockets, { withFileTypes: true })) {
    if (entry.isSocket()) continue;
    throw new HostError("HOST_IO", `QEMU has put something else than its sockets into '${files.sockets}'.`, {
      hint: "The guest is hostile and has broken out of QEMU: delete the machine, and update QEMU.",
      details: { path: files.sockets },
    });
  }
}

/** The path of the kernel for that user: itself where everybody may read it, else a copy in the machine's folder. */
export async function readableKernel(path: string, files: MachineFiles, user: MachineUser | null): Promise<string> {
  if (user === null || ((await stat(path)).mode & 0o004) !== 0) return path;
  await rm(files.kernel, { force: true });
  await copyFile(path, files.kernel);
  await chmod(files.kernel, 0o444);
  return files.kernel;
}
