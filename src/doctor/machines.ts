import { findFolders, type FoundFolder, SmolVM } from "../machine/index.js";
import type { Check, Finding } from "./check.js";

/** What programs that have died left of their machines is cleared away; machines in error are named. */
export const machines: Check = {
  name: "machines",
  async run(): Promise<Finding> {
    const before = await folders();
    const known = await SmolVM.list();
    const cleared = before.length - (await folders()).length;
    const running = known.filter((vm) => vm.status === "running").length;
    const counts = [
      `${known.length} here`,
      `${running} running`,
      ...(cleared > 0 ? [`${cleared} left over, cleared away`] : []),
    ];
    const broken = known.filter((vm) => vm.status === "error").map((vm) => vm.vmId);
    if (broken.length === 0) return { status: "ok", detail: counts.join(", ") };
    return {
      status: "warning",
      detail: `${counts.join(", ")}; in error: ${broken.join(", ")}.`,
      mend: {
        say: `Run: smolvm rm --force ${broken.join(" ")}`,
        fix: {
          what: `delete ${broken.join(", ")}`,
          async run() {
            for (const id of broken) await (await SmolVM.fromId(id)).delete();
          },
        },
      },
    };
  },
};

/** Machines, and what is left of making or removing one. Locks are files of the moment and no machines. */
async function folders(): Promise<readonly FoundFolder[]> {
  return (await findFolders()).filter(({ kind }) => kind !== "lock");
}
