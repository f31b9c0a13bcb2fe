import { stat } from "node:fs/promises";

import { HostError, ImageError } from "../errors.js";
import type { SmolVM, VMOptions } from "../machine/index.js";
import type { Input, OptionDescriptions } from "./command.js";
import { UsageError } from "./failure.js";
import { ensureImage, IMAGE_OPTIONS, imageManager } from "./images.js";
import { print } from "./terminal.js";
import { copyPair, environment, integer, mebibytes, oneOf, portPair, type PortPair } from "./values.js";

const NETWORKS = ["restricted", "open", "none"] as const;
const ACCELERATORS = ["auto", "kvm", "hvf", "tcg"] as const;

/** What a new machine is to be. */
export const MACHINE_OPTIONS = {
  image: { value: "NAME", summary: "The image to boot (default: one that is made on this host)", completes: "image" },
  name: { value: "ID", summary: "The machine's id (default: a random one)" },
  env: {
    value: "NAME=VALUE",
    short: "e",
    repeat: true,
    summary: "Set a variable in the machine; NAME alone passes it on",
  },
  cpus: { value: "N", summary: "Virtual CPUs, 1 to 32 (default: 2, or 1 without hardware acceleration)" },
  memory: { value: "SIZE", summary: "Memory in MiB, 128 to 16384, or as 512m or 2g (default: 512)" },
  disk: { value: "SIZE", summary: "Size of the root disk in MiB, or as 800m or 4g (default: that of the image)" },
  network: {
    value: "MODE",
    summary: "restricted: published ports, no way out (default). open: can reach the outside. none: no network",
    completes: NETWORKS,
  },
  accel: { value: "NAME", summary: "auto (default), kvm, hvf or tcg (software emulation)", completes: ACCELERATORS },
  publish: { value: "HOST:GUEST", short: "p", repeat: true, summary: "Forward a port of 127.0.0.1 to the machine" },
  volume: {
    value: "HOST:GUEST",
    short: "v",
    repeat: true,
    summary: "Copy a file or folder into the machine before anything runs. It is a copy: nothing comes back by itself",
    completes: "path",
  },
  ...IMAGE_OPTIONS,
  offline: { summary: "Use only an image that is here: nothing is fetched, a registry's description neither" },
} as const satisfies OptionDescriptions;

type MachineInput = Input<typeof MACHINE_OPTIONS>["options"];

/** Everything that can be wrong in the options is found before an image is fetched or a machine made. */
export async function readMachineOptions(options: MachineInput) {
  const copies = options.volume.map((text) => copyPair("--volume", text));
  for (const { from } of copies) {
    if ((await stat(from).catch(() => null)) === null) throw new UsageError(`--volume: there is no '${from}' here.`);
  }
  const ports = options.publish.map((text) => portPair("--publish", text));
  const network = oneOf("--network", options.network, NETWORKS);
  checkPorts(ports, network);
  return {
    image: options.image,
    registry: options.registry,
    offline: options.offline,
    ports,
    copies,
    config: {
      vmId: options.name,
      vcpuCount: integer("--cpus", options.cpus),
      memSizeMib: mebibytes("--memory", options.memory),
      diskSizeMib: mebibytes("--disk", options.disk),
      network,
      accel: oneOf("--accel", options.accel, ACCELERATORS),
      envVars: environment(options.env),
    } satisfies VMOptions,
  };
}

function checkPorts(ports: readonly PortPair[], network: string | undefined): void {
  if (network === "none" && ports.length > 0) {
    throw new UsageError("--publish and --network none do not go together: that machine has no port to forward.", {
      hint: "Leave --network out: published ports then lead into the machine, and nothing leads out of it.",
    });
  }
  const hosts = ports.flatMap(({ host }) => host ?? []);
  const twice = hosts.find((host, position) => hosts.indexOf(host) !== position);
  if (twice !== undefined) throw new UsageError(`--publish has port ${twice} of 127.0.0.1 twice.`);
}

export type MachineOptions = Awaited<ReturnType<typeof readMachineOptions>>;

/** Makes a machine and starts it. What can be wrong with it is found before its image is fetched, which is shown. */
export async function startMachine(
  wanted: MachineOptions,
  { signal, detached = false }: { readonly signal: AbortSignal; readonly detached?: boolean },
): Promise<SmolVM> {
  const { SmolVM } = await import("../machine/index.js");
  const { offline, registry } = wanted;
  for (const { host } of wanted.ports) if (host !== undefined) await assertFree(host);
  const images = wanted.image === undefined ? undefined : await imageManager(wanted, signal).catch(sayOffline);
  const vm = new SmolVM({ ...wanted.config, image: wanted.image, images, offline, detached });
  await ensureImage(wanted.image, { manager: images, signal, offline, registry });
  await vm.start({ signal });
  try {
    await furnish(vm, wanted, signal);
    return vm;
  } catch (error) {
    await vm.delete();
    throw error;
  }
}

/** A registry that can't be reached does not make the images useless that are here. */
function sayOffline(error: unknown): never {
  if (!(error instanceof ImageError) || error.code !== "IMAGE_DOWNLOAD_FAILED") throw error;
  throw new ImageError(error.code, error.message, {
    hint: `An image that is here already needs no registry: add --offline. ${error.hint ?? ""}`.trimEnd(),
    details: error.details,
    cause: error,
  });
}

/**
 * Finds a port that is taken before a machine boots for it. Somebody may still take it meanwhile: that is found when it is
 * forwarded.
 */
async function assertFree(port: number): Promise<void> {
  const { createServer } = await import("node:net");
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ port, host: "127.0.0.1", exclusive: true }, resolve);
    });
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    const why = { EADDRINUSE: "is in use", EACCES: "may not be taken by this user" }[code] ?? `can't be used: ${code}`;
    throw new HostError("HOST_PORT_IN_USE", `Port ${port} of 127.0.0.1 ${why}.`, {
      hint: "Take another one, or leave the host's port out to get a free one.",
      details: { hostPort: port },
      cause: error,
    });
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

/** What has to be done to a machine that has just started. */
async function furnish(vm: SmolVM, wanted: MachineOptions, signal: AbortSignal): Promise<void> {
  for (const { from, to } of wanted.copies) await vm.files.upload(from, to, { signal });
  for (const { host, guest } of wanted.ports) {
    const port = await vm.exposeLocal(guest, host);
    if (host === undefined) print(`smolvm: port ${guest} of the machine is 127.0.0.1:${port} here`);
  }
}
