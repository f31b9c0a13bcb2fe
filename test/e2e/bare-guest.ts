import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { type CpioEntry, writeCpio } from "../../src/build/index.js";
import { requireTool } from "../../src/host/tools.js";
import type { LocalImage } from "../../src/images/index.js";

/** QEMU with nothing but a console on its standard output, under emulation. */
export const BARE_QEMU: readonly string[] = [
  ...["-accel", "tcg", "-m", "256", "-serial", "stdio"],
  ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
];

export type Arch = "x86_64" | "arm64";

export interface BareGuest {
  readonly arch: Arch;
  readonly image: LocalImage;
  /** A static BusyBox for the guest. */
  readonly busybox: Buffer;
  /** Shell commands that the first process runs, with the image's modules loaded and /proc, /sys and /dev mounted. */
  readonly script: string;
  readonly files?: Readonly<Record<string, Buffer>>;
  /** Raw disks: /dev/vda and so on. */
  readonly drives: readonly string[];
  /** For what is put together here; the caller removes it. */
  readonly folder: string;
}

const TIMEOUT_MS = 120_000;

const QEMU = {
  x86_64: {
    program: "qemu-system-x86_64",
    args: ["-M", "q35", "-cpu", "qemu64,+rdrand", "-bios", "qboot.rom"],
    kernel: "console=ttyS0 quiet reboot=t panic=-1 cryptomgr.notests",
  },
  arm64: {
    program: "qemu-system-aarch64",
    args: ["-M", "virt", "-cpu", "cortex-a57"],
    kernel: "console=ttyAMA0 quiet reboot=t panic=-1 cryptomgr.notests",
  },
} as const;

/** Boots an image with nothing but QEMU and a shell script as first process, and gives all that the guest printed. */
export async function bootBare(guest: BareGuest): Promise<string> {
  const initrd = join(guest.folder, "initrd");
  writeFileSync(initrd, Buffer.concat([readFileSync(guest.image.initrdPath ?? ""), ownPart(guest)]));
  const { program, args, kernel } = QEMU[guest.arch];
  const drives = guest.drives.flatMap((path, index) => [
    "-drive",
    `if=none,id=d${index},file=${path},format=raw,cache=unsafe`,
    "-device",
    `virtio-blk-pci,drive=d${index}`,
  ]);
  const child = spawn(
    requireTool(program),
    [...BARE_QEMU, ...args, ...["-kernel", guest.image.kernelPath, "-initrd", initrd, "-append", kernel], ...drives],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
  child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
  const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
  await new Promise((resolve, reject) => child.once("error", reject).once("close", resolve));
  clearTimeout(timer);
  return Buffer.from(output, "latin1").toString("utf8").replaceAll("\r", "");
}

function ownPart({ busybox, script, files = {} }: BareGuest): Buffer {
  const init = [
    "#!/bin/busybox sh",
    "/bin/busybox --install -s /bin",
    "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev",
    "while read module; do insmod /lib/smolvm/modules/$module || echo FAILED to load $module; done < /lib/smolvm/modules.order",
    script,
    "poweroff -f",
  ];
  const entries: CpioEntry[] = ["bin", "proc", "sys", "dev", "mnt"].map((path) => ({
    path,
    type: "directory",
    mode: 0o755,
  }));
  entries.push({ path: "bin/busybox", type: "file", mode: 0o755, data: busybox });
  entries.push({ path: "init", type: "file", mode: 0o755, data: Buffer.from(`${init.join("\n")}\n`) });
  for (const [path, data] of Object.entries(files)) entries.push({ path, type: "file", mode: 0o755, data });
  return writeCpio(entries);
}
