import { stat } from "node:fs/promises";

import type { SmolVM, VMOptions } from "../machine/index.js";
import type { Input, OptionDescriptions } from "./command.js";
import { UsageError } from "./failure.js";
import { ensureImage, IMAGE_OPTIONS, imageManager } from "./images.js";
import { print } from "./terminal.js";
import { copyPair, environment, integer, mebibytes, oneOf, portPair } from "./values.js";

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
  memory: { value: "MIB", summary: "Memory, 128 to 16384 MiB (default: 512)" },
  disk: { value: "MIB", summary: "Size of the root disk (default: that of the image)" },
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
} as const satisfies OptionDescriptions;

type MachineInput = Input<typeof MACHINE_OPTIONS>["options"];

/** Everything that can be wrong in the options is found before an image is fetched or a machine made. */
export async function readMachineOptions(options: MachineInput) {
  const copies = options.volume.map((text) => copyPair("--volume", text));
  for (const { from } of copies) {
    if ((await stat(from).catch(() => null)) === null) throw new UsageError(`--volume: there is no '${from}' here.`);
  }
  return {
    image: options.image,
    registry: options.registry,
    ports: options.publish.map((text) => portPair("--publish", text)),
    copies,
    config: {
      vmId: options.name,
      vcpuCount: integer("--cpus", options.cpus),
      memSizeMib: mebibytes("--memory", options.memory),
      diskSizeMib: mebibytes("--disk", options.disk),
      network: oneOf("--network", options.network, NETWORKS),
      accel: oneOf("--accel", options.accel, ACCELERATORS),
      envVars: environment(options.env),
    } satisfies VMOptions,
  };
}

export type MachineOptions = Awaited<ReturnType<typeof readMachineOptions>>;

/** Makes a machine and starts it. What can be wrong with it is found before its image is fetched, which is shown. */
export async function startMachine(
  wanted: MachineOptions,
  { signal, detached = false }: { readonly signal: AbortSignal; readonly detached?: boolean },
): Promise<SmolVM> {
  const { SmolVM } = await import("../machine/index.js");
  const images = wanted.image === undefined ? undefined : await imageManager(wanted);
  const vm = new SmolVM({ ...wanted.config, image: wanted.image, images, detached });
  await ensureImage(wanted.image, { manager: images, signal });
  await vm.start({ signal });
  try {
    await furnish(vm, wanted, signal);
    return vm;
  } catch (error) {
    await vm.delete();
    throw error;
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
