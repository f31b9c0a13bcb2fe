import assert from "node:assert/strict";
import { test } from "node:test";

import { qemuCommand } from "../../src/hypervisor/qemu/argv.js";
import { cagePrefix, type CageNeeds } from "../../src/hypervisor/qemu/cage.js";
import { addressSpaceLimit, confinedCommand } from "../../src/hypervisor/qemu/confine.js";
import type { QemuFacts } from "../../src/hypervisor/qemu/facts.js";
import type { MachineSpec } from "../../src/hypervisor/types.js";

const FACTS: QemuFacts = { binary: "/bin/qemu", version: "7.2.0", sandbox: true, qboot: true, redirector: true };
const SPEC: MachineSpec = {
  vmId: "vm-1",
  token: "00000000-0000-4000-8000-000000000000",
  arch: "x86_64",
  vcpus: 1,
  memoryMib: 512,
  accelerator: "tcg",
  network: "restricted",
  kernelFd: 40,
  initrdFd: 41,
  commandLine: "console=ttyS0 quiet",
  disks: [
    { kind: "overlay", overlayFd: 42, baseFd: 43 },
    { kind: "raw", fd: 44, readOnly: true },
  ],
  consoleFd: 45,
};

function commandFor(changes: Partial<MachineSpec> = {}, facts: Partial<QemuFacts> = {}) {
  const { args, files } = qemuCommand({ ...SPEC, ...changes }, { ...FACTS, ...facts }, "/proc/self/fd");
  const values = (option: string): string[] =>
    args.flatMap((argument, index) => (args[index - 1] === option ? [argument] : []));
  return { args, files, values };
}

test("every file is an inherited descriptor, each used once and in its place", () => {
  const { args, files, values } = commandFor();
  assert.deepEqual([...files].sort(), [40, 41, 42, 43, 44, 45]);
  const inherited = (fd: number): number => 3 + files.indexOf(fd);
  assert.deepEqual(values("-kernel"), [`/proc/self/fd/${inherited(40)}`]);
  assert.deepEqual(values("-initrd"), [`/proc/self/fd/${inherited(41)}`]);
  const set = (fd: number): string => {
    const found = values("-add-fd").find((value) => value.startsWith(`fd=${inherited(fd)},`));
    return `/dev/fdset/${/set=(\d+)/.exec(found ?? "")?.[1] ?? "none"}`;
  };
  const drive = (node: string): string =>
    values("-blockdev").find((value) => value.includes(`node-name=${node},`)) ?? "";
  assert.ok(drive("disk0-file").includes(`filename=${set(42)},`));
  assert.ok(drive("disk0-base-file").includes(`filename=${set(43)},`));
  assert.ok(drive("disk0-base").includes("read-only=on"));
  assert.ok(drive("disk0").includes("backing=disk0-base"));
  assert.ok(drive("disk1-file").includes(`filename=${set(44)},read-only=on`));
  assert.ok(values("-chardev").some((value) => value.startsWith("file,id=console,") && value.includes(set(45))));
  assert.ok(!args.some((argument) => argument.startsWith("/") && !argument.startsWith("/proc/self/fd/")));
});

test("there are no default devices, and the system call filter is on where this QEMU has it", () => {
  const { args, values } = commandFor();
  for (const option of ["-nodefaults", "-no-user-config", "-no-reboot"]) assert.ok(args.includes(option), option);
  assert.deepEqual(values("-sandbox"), ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
  assert.deepEqual(commandFor({}, { sandbox: false }).values("-sandbox"), []);
});

test("eight lanes are eight named ports, each with a socket of a relative name", () => {
  const ports = commandFor()
    .values("-device")
    .filter((value) => value.startsWith("virtserialport"));
  assert.equal(ports.length, 8);
  assert.equal(new Set(ports.map((port) => /name=(org\.smolvm\.agent\.\d)$/.exec(port)?.[1])).size, 8);
  const sockets = commandFor()
    .values("-chardev")
    .filter((value) => value.startsWith("socket,"));
  for (const socket of sockets) assert.match(socket, /path=[a-z0-9-]+,server=on,wait=off$/);
});

test("restricted has no way out, open has a filter in the way, none has no device", () => {
  const network = (mode: MachineSpec["network"]) => {
    const { values } = commandFor({ network: mode });
    return {
      netdev: values("-netdev").join(),
      device: values("-device").some((value) => value.startsWith("virtio-net")),
      filter: values("-object").some((value) => value.startsWith("filter-redirector,") && value.includes("queue=rx")),
    };
  };
  const restricted = network("restricted");
  assert.match(restricted.netdev, /restrict=on/);
  assert.match(restricted.netdev, /ipv6=off/);
  assert.equal(restricted.filter, false);
  const open = network("open");
  assert.match(open.netdev, /ipv6=off/);
  assert.doesNotMatch(open.netdev, /restrict/);
  assert.equal(open.filter, true);
  assert.deepEqual(network("none"), { netdev: "", device: false, filter: false });
});

test("the platform follows architecture, accelerator and what is installed", () => {
  assert.match(commandFor().values("-cpu").join(), /^qemu64,.*\+rdrand/);
  assert.deepEqual(commandFor({ accelerator: "kvm" }).values("-cpu"), ["host,-vmx,-svm"]);
  assert.deepEqual(commandFor({ accelerator: "hvf", arch: "aarch64" }).values("-cpu"), ["host"]);
  assert.deepEqual(commandFor({ accelerator: "kvm" }).values("-accel"), ["kvm"]);
  assert.deepEqual(commandFor().values("-bios"), ["qboot.rom"]);
  assert.deepEqual(commandFor({}, { qboot: false }).values("-bios"), []);
  const arm = commandFor({ arch: "aarch64" });
  assert.deepEqual([arm.values("-M"), arm.values("-cpu"), arm.values("-bios")], [["virt"], ["cortex-a57"], []]);
  assert.match(commandFor({ memoryMib: 128 }).values("-accel").join(), /tb-size=64$/);
  assert.match(commandFor({ memoryMib: 16384 }).values("-accel").join(), /tb-size=256$/);
});

test("as root QEMU becomes a user without any right; for others at least it can't gain any", () => {
  const confinement = {
    uid: 5000,
    group: null,
    diesWith: 77,
    addressSpace: addressSpaceLimit({ memoryMib: 512 }),
    fileSize: 1000,
    cage: null,
  };
  const tools = { setpriv: "/bin/setpriv", prlimit: "/bin/prlimit", shell: "/bin/sh", root: true };
  const [program, args] = confinedCommand("/bin/qemu", ["-M", "none"], confinement, tools);
  assert.equal(program, "/bin/setpriv");
  const line = args.join(" ");
  assert.match(line, /^--no-new-privs --reuid 5000 --regid 5000 --clear-groups --bounding-set=-all --inh-caps=-all/);
  assert.match(
    line,
    /--pdeathsig KILL \/bin\/sh -c .* 77 \/bin\/prlimit --core=0 --fsize=1000 --nofile=4096 --as=\d+ --nproc=256 \/bin\/qemu -M none$/,
  );
  assert.match(confinedCommand("q", [], { ...confinement, group: 108 }, tools)[1].join(" "), /--groups 108/);
  const plain = { ...confinement, uid: null, diesWith: null, addressSpace: null };
  const user = confinedCommand("q", [], plain, { ...tools, root: false })[1].join(" ");
  assert.doesNotMatch(user, /reuid|nproc|pdeathsig|bounding|--as/);
  assert.match(confinedCommand("q", [], plain, tools)[1].join(" "), /--bounding-set=-all/);
  assert.match(user, /--no-new-privs/);
  assert.deepEqual(
    confinedCommand("q", ["a"], confinement, { setpriv: null, prlimit: null, shell: null, root: false }),
    ["q", ["a"]],
  );
});

test("an ordinary user's QEMU gets a root folder of its own where the host lets it, and no right over it", () => {
  const cage = {
    unshare: "/bin/unshare",
    shell: "/bin/sh",
    mountPoint: "/mnt",
    visible: ["/usr"],
    resolver: "/etc/resolv.conf",
  };
  const tools = { setpriv: "/bin/setpriv", prlimit: null, shell: null, root: false };
  const confinement = { uid: null, group: null, diesWith: 77, addressSpace: null, fileSize: 1 };
  const line = (needs: CageNeeds): string =>
    confinedCommand("/bin/qemu", ["-M", "none"], { ...confinement, cage: cagePrefix(cage, needs) }, tools)
      .flat()
      .join(" ")
      .replace(/set -eu.*exec "\$@"/s, "SCRIPT");
  assert.equal(
    line({ network: false, kvm: false, descriptors: [7, 8] }),
    "/bin/setpriv --no-new-privs /bin/unshare --user --map-root-user --mount --ipc --uts --net /bin/sh -c SCRIPT cage /mnt 7 8 1 " +
      "/usr /bin/setpriv --bounding-set=-all --inh-caps=-all --pdeathsig KILL /bin/qemu -M none",
  );
  assert.match(
    line({ network: true, kvm: true, descriptors: [] }),
    /--uts \/bin\/sh -c SCRIPT cage \/mnt {2}3 \/usr \/dev\/kvm \/etc\/resolv.conf /,
  );
});
