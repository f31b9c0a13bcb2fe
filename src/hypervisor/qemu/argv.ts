import { EGRESS_SOCKETS, GUEST_NETWORK, LANES, QMP_SOCKET, laneSocket, type Disk, type MachineSpec } from "../types.js";
import type { QemuFacts } from "./facts.js";

/** What QEMU is started with: its arguments, and the descriptors that it inherits as 3, 4, … in this order. */
export interface QemuCommand {
  readonly args: readonly string[];
  readonly files: readonly number[];
  /** Those of the inherited descriptors that it opens by their names. */
  readonly named: readonly number[];
}

/** Descriptors 0 to 2 are the standard streams. */
const FIRST_INHERITED = 3;

/**
 * Turns a machine into QEMU's command line. Pure. All files are inherited descriptors, so QEMU needs no right to open
 * anything by name and may run as another user; sockets have relative names in its working directory.
 */
export function qemuCommand(spec: MachineSpec, facts: QemuFacts, descriptorFolder = descriptorPath()): QemuCommand {
  const files: number[] = [];
  const inherit = (fd: number): number => {
    files.push(fd);
    return FIRST_INHERITED + files.length - 1;
  };
  const sets: string[] = [];
  const fdset = (fd: number): string => {
    const set = sets.length / 2 + 1;
    sets.push("-add-fd", `fd=${inherit(fd)},set=${set}`);
    return `/dev/fdset/${set}`;
  };
  const disks = spec.disks.flatMap((disk, index) => diskArguments(disk, index, fdset));
  const consoleFile = fdset(spec.consoleFd);
  const [kernelFd, initrdFd] = [inherit(spec.kernelFd), inherit(spec.initrdFd)];

  const args = [
    ...["-name", `guest=${spec.vmId}`, "-uuid", spec.token],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...sandboxArguments(facts),
    ...platformArguments(spec, facts),
    ...["-m", String(spec.memoryMib), "-smp", String(spec.vcpus)],
    ...sets,
    ...[
      "-kernel",
      `${descriptorFolder}/${kernelFd}`,
      "-initrd",
      `${descriptorFolder}/${initrdFd}`,
      "-append",
      spec.commandLine,
    ],
    ...["-chardev", `file,id=console,path=${consoleFile},append=on`, "-serial", "chardev:console"],
    ...["-chardev", `socket,id=qmp,path=${QMP_SOCKET},server=on,wait=off`, "-mon", "chardev=qmp,mode=control"],
    ...disks,
    ...["-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=entropy"],
    ...["-device", "virtio-serial-pci,id=lanes"],
    ...Array.from({ length: LANES }, (_, lane) => laneArguments(lane)).flat(),
    ...networkArguments(spec),
  ];
  return { args, files, named: [kernelFd, initrdFd] };
}

function descriptorPath(): string {
  return process.platform === "linux" ? "/proc/self/fd" : "/dev/fd";
}

/** QEMU's own system call filter: no new privileges, no other programs, no rarely used calls. */
function sandboxArguments(facts: QemuFacts): string[] {
  return facts.sandbox ? ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"] : [];
}

function platformArguments(spec: MachineSpec, facts: QemuFacts): string[] {
  return spec.arch === "x86_64"
    ? [
        // Controllers that nothing here uses are left out: they are attack surface.
        ...["-M", "q35,usb=off,sata=off,smbus=off,vmport=off"],
        ...acceleratorArguments(spec),
        ...["-cpu", x86Cpu(spec)],
        // The small firmware saves a quarter of a second of SeaBIOS's set-up under emulation.
        ...(facts.qboot ? ["-bios", "qboot.rom"] : []),
      ]
    : ["-M", "virt", ...acceleratorArguments(spec), "-cpu", spec.accelerator === "tcg" ? "cortex-a57" : "host"];
}

/**
 * Under emulation exactly x86-64-v2, which current distributions' C libraries ask for, and rdrand, without which the first
 * random number costs the guest a second. Not "max": with AVX2 the guest's libc picks code that is slower to emulate.
 */
function x86Cpu(spec: MachineSpec): string {
  // Virtual machines inside the guest are the part of a hypervisor where most holes have been.
  if (spec.accelerator !== "tcg") return "host,-vmx,-svm";
  return "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand";
}

function acceleratorArguments(spec: MachineSpec): string[] {
  if (spec.accelerator !== "tcg") return ["-accel", spec.accelerator];
  return ["-accel", `tcg,thread=multi,tb-size=${translationCacheMib(spec.memoryMib)}`];
}

/** QEMU's default for its translated code may grow to 1 GiB for each machine. */
export function translationCacheMib(memoryMib: number): number {
  return Math.min(256, Math.max(64, Math.floor(memoryMib / 2)));
}

function diskArguments(disk: Disk, index: number, fdset: (fd: number) => string): string[] {
  const node = `disk${index}`;
  const device = ["-device", `virtio-blk-pci,drive=${node}`];
  if (disk.kind === "raw") {
    const mode = disk.readOnly ? "read-only=on" : "read-only=off,discard=unmap";
    return [
      ...["-blockdev", `driver=file,node-name=${node}-file,filename=${fdset(disk.fd)},${mode}`],
      ...["-blockdev", `driver=raw,node-name=${node},file=${node}-file,${mode}`],
      ...device,
    ];
  }
  // The overlay is thrown away with the machine, so QEMU need not wait for the host's disk: no-flush.
  const volatile = "cache.no-flush=on,discard=unmap";
  return [
    ...["-blockdev", `driver=file,node-name=${node}-base-file,filename=${fdset(disk.baseFd)},read-only=on`],
    ...["-blockdev", `driver=raw,node-name=${node}-base,file=${node}-base-file,read-only=on`],
    ...["-blockdev", `driver=file,node-name=${node}-file,filename=${fdset(disk.overlayFd)},${volatile}`],
    ...[
      "-blockdev",
      `driver=qcow2,node-name=${node},file=${node}-file,backing=${node}-base,${volatile},detect-zeroes=unmap`,
    ],
    ...device,
  ];
}

function laneArguments(lane: number): string[] {
  return [
    ...["-chardev", `socket,id=lane${lane},path=${laneSocket(lane)},server=on,wait=off`],
    ...["-device", `virtserialport,bus=lanes.0,nr=${lane + 1},chardev=lane${lane},name=org.smolvm.agent.${lane}`],
  ];
}

function networkArguments(spec: MachineSpec): string[] {
  if (spec.network === "none") return [];
  const { address, gateway, dns } = GUEST_NETWORK;
  const user = `user,id=net0,ipv6=off,net=10.0.2.0/24,host=${gateway},dns=${dns},dhcpstart=${address}`;
  return [
    ...["-netdev", spec.network === "restricted" ? `${user},restrict=on` : user],
    ...["-device", "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56"],
    ...(spec.network === "open" ? egressArguments() : []),
  ];
}

/** Every frame that the guest sends takes a detour through the egress filter. While nobody listens there, all are dropped. */
function egressArguments(): string[] {
  return [
    ...["-chardev", `socket,id=egress-out,path=${EGRESS_SOCKETS.out},server=on,wait=off`],
    ...["-chardev", `socket,id=egress-back,path=${EGRESS_SOCKETS.back},server=on,wait=off`],
    ...["-object", "filter-redirector,id=egress,netdev=net0,queue=rx,outdev=egress-out,indev=egress-back"],
  ];
}
