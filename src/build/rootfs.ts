import { open } from "node:fs/promises";

import { appletNames } from "./busybox.js";
import { type Attributes, Ext4Writer } from "./ext4/index.js";
import { SparseFile } from "./sparse-file.js";

/** Room for the guest's own files. It is a hole in the image and costs nothing on the host until it is used. */
const FREE_BYTES = 512 * 1024 * 1024;

export interface RootfsInput {
  readonly busybox: Buffer;
  /** Seconds since 1970: the time of every file. */
  readonly time: number;
  /** What /etc/os-release says, such as "1.35.0". */
  readonly version: string;
}

export interface RootfsFile {
  readonly size: number;
  readonly extents: readonly (readonly [start: number, end: number])[];
}

/** Writes the default root filesystem: BusyBox under the name of each of its applets, and the files that programs expect. */
export async function writeRootfs(path: string, input: RootfsInput): Promise<RootfsFile> {
  const handle = await open(path, "wx", 0o644);
  try {
    const file = new SparseFile(handle);
    const writer = new Ext4Writer(file, { label: "smolvm", freeBytes: FREE_BYTES });
    await fill(writer, input);
    const { size } = await writer.finish();
    return { size, extents: await file.finish(size) };
  } finally {
    await handle.close();
  }
}

async function fill(writer: Ext4Writer, { busybox, time, version }: RootfsInput): Promise<void> {
  const at = (mode: number, owner: Partial<Attributes> = {}): Attributes => ({ mode, mtime: time, ...owner });
  writer.directory("/", at(0o755));
  for (const [path, mode] of FOLDERS) writer.directory(path, at(mode));
  writer.directory("/home/smolvm", at(0o755, { uid: 1000, gid: 1000 }));
  for (const [path, target] of LINKS) await writer.symlink(path, target, at(0o777));
  for (const [path, text, mode = 0o644] of files(version)) await writer.file(path, at(mode), Buffer.from(text));
  await writer.file("/usr/bin/busybox", at(0o755), busybox);
  for (const name of appletNames(busybox)) {
    if (name !== "busybox") await writer.symlink(`/usr/bin/${name}`, "busybox", at(0o777));
  }
}

const FOLDERS: readonly (readonly [path: string, mode: number])[] = [
  ["/dev", 0o755],
  ["/etc", 0o755],
  ["/etc/init.d", 0o755],
  ["/home", 0o755],
  ["/mnt", 0o755],
  ["/opt", 0o755],
  ["/proc", 0o555],
  ["/root", 0o700],
  ["/run", 0o755],
  ["/srv", 0o755],
  ["/sys", 0o555],
  ["/tmp", 0o1777],
  ["/usr", 0o755],
  ["/usr/bin", 0o755],
  ["/usr/lib", 0o755],
  ["/usr/local", 0o755],
  ["/usr/local/bin", 0o755],
  ["/usr/share", 0o755],
  ["/var", 0o755],
  ["/var/cache", 0o755],
  ["/var/lib", 0o755],
  ["/var/log", 0o755],
  ["/var/spool", 0o755],
  ["/var/spool/cron", 0o755],
  ["/var/spool/cron/crontabs", 0o700],
  ["/var/tmp", 0o1777],
];

/* One folder of programs under all its usual names, as distributions have it now. */
const LINKS: readonly (readonly [path: string, target: string])[] = [
  ["/bin", "usr/bin"],
  ["/sbin", "usr/bin"],
  ["/usr/sbin", "bin"],
  ["/lib", "usr/lib"],
  ["/var/run", "/run"],
  ["/var/lock", "/run/lock"],
  ["/etc/mtab", "/proc/self/mounts"],
];

function files(version: string): readonly (readonly [path: string, text: string, mode?: number])[] {
  return [
    [
      "/etc/passwd",
      "root:x:0:0:root:/root:/bin/sh\n" +
        "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n" +
        "smolvm:x:1000:1000:smolvm:/home/smolvm:/bin/sh\n" +
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ],
    [
      "/etc/group",
      "root:x:0:\ndaemon:x:1:\ntty:x:5:\ndisk:x:6:\nwww-data:x:33:\nusers:x:100:\nsmolvm:x:1000:\nnogroup:x:65534:\n",
    ],
    // No password opens an account: commands come in through smolvm, not through a login.
    [
      "/etc/shadow",
      "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nsmolvm:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
      0o600,
    ],
    ["/etc/hostname", "smolvm\n"],
    ["/etc/hosts", "127.0.0.1\tlocalhost smolvm\n::1\tlocalhost ip6-localhost ip6-loopback\n"],
    // Filled in by smolvm where the machine has a network.
    ["/etc/resolv.conf", ""],
    ["/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"],
    ["/etc/shells", "/bin/sh\n/bin/ash\n"],
    [
      "/etc/profile",
      "export PATH=/usr/local/bin:/usr/bin:/bin\nexport PS1='\\u@\\h:\\w\\$ '\nexport PAGER=less\numask 022\n" +
        'for script in /etc/profile.d/*.sh; do\n  [ -r "$script" ] && . "$script"\ndone\nunset script\n',
    ],
    [
      "/etc/os-release",
      `NAME="smolvm"\nID=smolvm\nID_LIKE=busybox\nVERSION_ID=${version}\nPRETTY_NAME="smolvm default image (BusyBox ${version})"\n`,
    ],
    ["/etc/fstab", "/dev/vda\t/\text4\tdefaults\t0 0\n"],
    // For those who hand over to the image's own init.
    [
      "/etc/inittab",
      "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n::ctrlaltdel:/sbin/reboot\n::shutdown:/bin/umount -a -r\n",
    ],
    [
      "/etc/init.d/rcS",
      "#!/bin/sh\n" +
        "mountpoint -q /proc || mount -t proc proc /proc\n" +
        "mountpoint -q /sys || mount -t sysfs sysfs /sys\n" +
        "mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev\n" +
        "mount -o remount,rw /\nhostname -F /etc/hostname\nifconfig lo 127.0.0.1 up\n",
      0o755,
    ],
  ];
}
