import { chooseAccelerator, qemuFacts } from "../hypervisor/index.js";
import type { Check, Finding } from "./check.js";

/** Which accelerator machines get here: hardware counts only when a guest has been seen to run on it. */
export const accelerator: Check = {
  name: "accelerator",
  async run(): Promise<Finding> {
    const arch = process.arch === "arm64" ? "aarch64" : "x86_64";
    const { binary } = await qemuFacts(arch);
    const choice = await chooseAccelerator("auto", arch, binary, { anew: true });
    if (choice.accelerator !== "tcg") return { status: "ok", detail: `${choice.accelerator}: ${choice.reason}.` };
    return {
      status: "warning",
      detail: `tcg (software emulation): ${choice.reason}. Machines run, but slowly.`,
      mend: { say: mendFor(choice.reason) },
    };
  },
};

function mendFor(reason: string): string {
  if (reason.includes("may not open")) return "Run: sudo usermod -aG kvm $USER   and log in again";
  if (reason.includes("no /dev/kvm"))
    return "Turn on virtualization in the firmware, or nested virtualization of the virtual host.";
  return "Nothing that smolvm can do: hardware acceleration has to work on this host first.";
}
