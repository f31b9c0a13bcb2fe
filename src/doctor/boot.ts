import { SmolVM } from "../machine/index.js";
import type { Check, Finding } from "./check.js";

const DEADLINE_MS = 90_000;

/** The proof: the default image is booted, runs a command and is deleted. It is made first where it is not here yet. */
export const boot: Check = {
  name: "boot",
  async run(signal): Promise<Finding> {
    const vm = new SmolVM({ memSizeMib: 256, network: "none" });
    const started = performance.now();
    try {
      await vm.start({ timeoutMs: DEADLINE_MS, signal });
      const { output, ok } = await vm.run(["uname", "-sr"], { timeoutMs: DEADLINE_MS, signal });
      if (!ok) return { status: "failure", detail: "a machine came up, but no command runs in it." };
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      return {
        status: "ok",
        detail: `a machine came up and ran a command in ${seconds} s (${output}, ${acceleratorOf(vm)})`,
      };
    } finally {
      await vm.delete();
    }
  },
};

const acceleratorOf = (vm: SmolVM): string => vm.info.accelerator ?? "unknown accelerator";
