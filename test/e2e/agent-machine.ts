import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import type { TestContext } from "node:test";

import { type CpioEntry, defaultImage, writeCpio } from "../../src/build/index.js";
import { agentPath, connectGuest, type GuestConnection } from "../../src/guest/index.js";
import { packageRoot } from "../../src/host/package.js";
import { requireTool } from "../../src/host/tools.js";
import type { LocalImage } from "../../src/images/index.js";
import { BARE_QEMU } from "./bare-guest.js";

export type Arch = "x86_64" | "arm64";

/** Made once and used by every test that boots a machine. */
const IMAGES = join(packageRoot(), "build", "test-images");

const QEMU = {
  x86_64: {
    program: "qemu-system-x86_64",
    args: ["-M", "q35", "-cpu", "qemu64,+rdrand", "-bios", "qboot.rom"],
    console: "ttyS0",
  },
  arm64: { program: "qemu-system-aarch64", args: ["-M", "virt", "-cpu", "cortex-a57"], console: "ttyAMA0" },
} as const;

export interface AgentMachineOptions {
  readonly arch?: Arch;
  /** On the kernel's command line. Default: the default image's root file system. */
  readonly kernelArguments?: string;
  /** The only disk. Default: the default image's root file system; what is written to it is thrown away. */
  readonly disk?: string;
  /** Lane 0 is a pair of sockets made with the machine, lane 1 a socket file that clients come to one after the other. */
  readonly lanes?: boolean;
}

/** A machine that is nothing but QEMU, a kernel and the agent. */
export class AgentMachine {
  readonly #child: ChildProcess;
  readonly #socket: string;
  #console = "";

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child;
    this.#socket = socket;
    child.stdout?.on("data", (chunk: Buffer) => (this.#console += chunk.toString()));
    this.lane.on("error", () => undefined); // the machine may go at any time
  }

  static async boot(context: TestContext, options: AgentMachineOptions = {}): Promise<AgentMachine> {
    const arch = options.arch ?? "x86_64";
    const image = await defaultImage({ arch, cacheDir: IMAGES });
    const folder = mkdtempSync(join(tmpdir(), "smolvm-agent-"));
    writeFileSync(join(folder, "initrd"), Buffer.concat([readFileSync(image.initrdPath ?? ""), ownPart(arch)]));
    const child = spawn(requireTool(QEMU[arch].program), commandLine(arch, image, folder, options), {
      stdio: ["ignore", "pipe", "inherit", "pipe"],
    });
    context.after(() => {
      child.kill("SIGKILL");
      rmSync(folder, { recursive: true, force: true });
    });
    return new AgentMachine(child, join(folder, "lane"));
  }

  get lane(): Duplex {
    return this.#child.stdio[3] as unknown as Duplex;
  }

  get console(): string {
    return this.#console;
  }

  connect(): Promise<GuestConnection> {
    return connectGuest(this.lane, { timeoutMs: 60_000, fresh: true });
  }

  async secondLane(): Promise<Socket> {
    const socket = connect(this.#socket);
    await once(socket, "connect");
    return socket.on("error", () => undefined);
  }

  /** Milliseconds until the machine is off. */
  async off(): Promise<number> {
    const begin = performance.now();
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, "close");
    return performance.now() - begin;
  }
}

function ownPart(arch: Arch): Buffer {
  const folders = ["dev", "proc", "sys", "newroot"];
  const entries: CpioEntry[] = folders.map((path) => ({ path, type: "directory", mode: 0o755 }));
  const agent = readFileSync(agentPath(arch === "arm64" ? "aarch64" : "x86_64"));
  return writeCpio([...entries, { path: "init", type: "file", mode: 0o755, data: agent }]);
}

function commandLine(arch: Arch, image: LocalImage, folder: string, options: AgentMachineOptions): string[] {
  const { args, console } = QEMU[arch];
  const root = options.kernelArguments ?? "smolvm.root=/dev/vda smolvm.rootfstype=ext4";
  const serial = ["-device", "virtio-serial-pci", "-chardev", "socket,id=l0,fd=3"];
  const second = `socket,id=l1,path=${join(folder, "lane")},server=on,wait=off`;
  const ports = ["l0", "l1"].flatMap((id, i) => ["-device", `virtserialport,chardev=${id},name=org.smolvm.agent.${i}`]);
  const lanes = options.lanes === false ? [] : [...serial, "-chardev", second, ...ports];
  const disk = `if=none,id=d,file=${options.disk ?? image.rootfsPath},format=raw,cache=unsafe,snapshot=on`;
  return [
    ...BARE_QEMU,
    ...args,
    ...["-kernel", image.kernelPath, "-initrd", join(folder, "initrd")],
    ...["-append", `console=${console} quiet reboot=t panic=-1 cryptomgr.notests ${root}`],
    ...["-drive", disk, "-device", "virtio-blk-pci,drive=d"],
    ...lanes,
  ];
}
