import assert from "node:assert/strict";
import { test } from "node:test";

import { kernelCommandLine, type KernelArguments } from "../../src/machine/command-line.js";

const WANTED: KernelArguments = {
  arch: "x86_64",
  accelerator: "tcg",
  vcpus: 1,
  rootfsType: "ext4",
  owned: true,
  bootArgs: null,
};
const words = (changes: Partial<KernelArguments>): string[] => kernelCommandLine({ ...WANTED, ...changes }).split(" ");

test("the guest is told its disk, its console and whether it has an owner", () => {
  const line = words({});
  for (const word of [
    "console=ttyS0",
    "smolvm.root=/dev/vda",
    "smolvm.rootfstype=ext4",
    "smolvm.owner=1",
    "panic=-1",
  ]) {
    assert.ok(line.includes(word), word);
  }
  assert.ok(!words({ owned: false }).includes("smolvm.owner=1"));
  assert.ok(words({ arch: "aarch64" }).includes("console=ttyAMA0"));
  assert.ok(words({ rootfsType: "squashfs" }).includes("smolvm.rootfstype=squashfs"));
});

test("what only emulation gains from is left out elsewhere", () => {
  assert.ok(words({}).includes("mitigations=off"));
  assert.ok(words({}).includes("nolapic_timer"));
  assert.ok(!words({ vcpus: 2 }).includes("nolapic_timer"), "the second CPU has no other timer");
  for (const word of ["mitigations=off", "nolapic_timer", "tsc=reliable"])
    assert.ok(!words({ accelerator: "kvm" }).includes(word));
});

test("an image's own arguments come last, without those that are the machine's to decide", () => {
  const firecracker =
    "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vdb rdinit=/x smolvm.owner=0 acpi=off  quiet foo=bar";
  const line = words({ bootArgs: firecracker });
  assert.deepEqual(line.slice(-3), ["console=ttyS0", "quiet", "foo=bar"]);
  for (const word of ["pci=off", "acpi=off", "reboot=k", "panic=1", "root=/dev/vdb", "rdinit=/x", "smolvm.owner=0"]) {
    assert.ok(!line.includes(word), word);
  }
});
