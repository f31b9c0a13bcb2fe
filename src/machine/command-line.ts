import type { GuestArch } from "../guest/index.js";
import type { Accelerator } from "../hypervisor/index.js";
import type { RootfsType } from "./rootfs.js";

export interface KernelArguments {
  readonly arch: GuestArch;
  readonly accelerator: Accelerator;
  readonly vcpus: number;
  readonly rootfsType: RootfsType;
  /** The guest ends when the owner's lane closes. */
  readonly owned: boolean;
  readonly bootArgs: string | null;
}

/** What the machine itself decides. Images made for other hypervisors switch the PCI bus off, on which all our devices are. */
const OURS = /^(pci=off|acpi=off|root=.*|rootfstype=.*|rdinit=.*|reboot=.*|panic=.*|smolvm\..*)$/;

/** The kernel's command line. Pure. */
export function kernelCommandLine(wanted: KernelArguments): string {
  const console = wanted.arch === "x86_64" ? "ttyS0" : "ttyAMA0";
  const own = (wanted.bootArgs ?? "").split(/\s+/).filter((word) => word !== "" && !OURS.test(word));
  return [
    `console=${console}`,
    "quiet",
    // A panic resets at once, and QEMU ends instead of resetting: a dead guest is noticed when it dies.
    ...["reboot=t", "panic=-1"],
    ...["cryptomgr.notests", "random.trust_cpu=on"],
    ...(wanted.accelerator === "tcg" ? emulationArguments(wanted) : []),
    ...["smolvm.root=/dev/vda", `smolvm.rootfstype=${wanted.rootfsType}`],
    ...(wanted.owned ? ["smolvm.owner=1"] : []),
    ...own,
  ].join(" ");
}

/** Each was measured to shorten the boot under emulation, where nothing can leak through a CPU's speculation anyway. */
function emulationArguments({ arch, vcpus }: KernelArguments): string[] {
  if (arch !== "x86_64") return ["mitigations=off", "nokaslr"];
  return [
    ...["mitigations=off", "nokaslr", "tsc=reliable", "8250.nr_uarts=1"],
    // With one CPU the HPET serves as its timer; more than one need the local timers.
    ...(vcpus === 1 ? ["nolapic_timer", "noreplace-smp"] : []),
  ];
}
