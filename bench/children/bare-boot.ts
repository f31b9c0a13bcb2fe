// Boots what a machine of smolvm boots, by the same command line, with nothing of smolvm around it: starts QEMU, connects to the
// agent's port, and prints the milliseconds until the agent's first frame. Its order is JSON in the first argument.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, copyFileSync, mkdirSync, openSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { connectGuest } from "../../src/guest/index.js";
import { connectUnix, laneSocket } from "../../src/hypervisor/index.js";

export interface Order {
  readonly command: readonly string[];
  /** What QEMU finds open as descriptor 3 and on. */
  readonly files: readonly { readonly path: string; readonly flags: "r" | "r+" | "a" }[];
  /** Copied anew for each boot: the machine's disk as it was before. */
  readonly disk: { readonly from: string; readonly to: string };
  /** QEMU's working folder, where its sockets are. Made anew. */
  readonly folder: string;
}

const TIMEOUT_MS = 60_000;

const { command, files, disk, folder } = JSON.parse(process.argv[2] ?? "") as Order;
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder);
copyFileSync(disk.from, disk.to);
const opened = files.map(({ path, flags }) => openSync(path, flags));
const [program = "", ...args] = command;
const began = performance.now();
const qemu = spawn(program, args, { cwd: folder, stdio: ["ignore", "ignore", "inherit", ...opened] });
const ended = once(qemu, "close");
try {
  const socket = await connected();
  await connectGuest(socket, { timeoutMs: TIMEOUT_MS });
  process.stdout.write(JSON.stringify(performance.now() - began));
  socket.destroy();
} finally {
  qemu.kill("SIGKILL");
  await ended;
  for (const fd of opened) closeSync(fd);
}

/** QEMU makes its sockets some milliseconds after its start. */
async function connected() {
  for (;;) {
    try {
      return await connectUnix(folder, laneSocket(0), { timeoutMs: TIMEOUT_MS });
    } catch (error) {
      if (performance.now() - began > TIMEOUT_MS || qemu.exitCode !== null) throw error;
      await sleep(4);
    }
  }
}
