import { defineCommand } from "../command.js";
import { table } from "../output.js";

export const ls = defineCommand({
  summary: "List the machines",
  options: { quiet: { short: "q", summary: "Only the ids" } },
  elsewhere: { "-a": "Those that are stopped are listed, too.", "--all": "Those that are stopped are listed, too." },
  async run({ options }) {
    const { SmolVM } = await import("../../machine/index.js");
    const machines = await SmolVM.list();
    if (options.quiet) return { data: machines, text: machines.map(({ vmId }) => `${vmId}\n`).join("") };
    const rows = machines.map((vm) => [
      vm.vmId,
      vm.status,
      vm.image ?? "-",
      String(vm.vcpuCount ?? "-"),
      vm.memSizeMib === null ? "-" : `${vm.memSizeMib} MiB`,
      vm.accelerator ?? "-",
      vm.ports.map(({ hostPort, guestPort }) => `${hostPort}:${guestPort}`).join(" ") || "-",
      vm.createdAt,
    ]);
    const head = ["ID", "STATUS", "IMAGE", "CPUS", "MEMORY", "ACCEL", "PORTS", "CREATED"];
    return { data: machines, text: table([head, ...rows]) };
  },
});
