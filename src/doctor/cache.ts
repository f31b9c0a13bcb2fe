import { BUILTIN_IMAGES, ImageManager, loadRegistry, madeHere } from "../images/index.js";
import type { Check, Finding } from "./check.js";

/** Every image that is here is read in full and held against its digests; what nobody uses is counted. */
export const cache: Check = {
  name: "images",
  async run(signal): Promise<Finding> {
    // What is here is known by its own record; the registry's server may be out of reach.
    const manager = new ImageManager({ registry: {} });
    const names = (await manager.list()).filter((image) => image.cached).map((image) => image.name);
    const damaged: string[] = [];
    for (const name of names) {
      if (!(await manager.verify(name, { signal })).ok) damaged.push(name);
    }
    if (damaged.length > 0) return mendDamaged(damaged);
    const { freedBytes } = await manager.prune({ dryRun: true });
    const detail = `${names.length} here, every byte verified`;
    if (freedBytes < WORTH_FREEING) return { status: "ok", detail };
    return {
      status: "warning",
      detail: `${detail}; ${Math.round(freedBytes / MEBIBYTE)} MiB are used by no image.`,
      mend: {
        say: "Run: smolvm image prune",
        fix: {
          what: "remove what no image uses",
          run: async () => {
            await manager.prune({ dryRun: false });
          },
        },
      },
    };
  },
};

const MEBIBYTE = 1024 * 1024;
const WORTH_FREEING = 256 * MEBIBYTE;

/** With the registry that the command line would use. */
async function managerInUse(signal: AbortSignal): Promise<ImageManager> {
  const from = process.env["SMOLVM_REGISTRY"] ?? "";
  return new ImageManager({ registry: from === "" ? BUILTIN_IMAGES : await loadRegistry(from, { signal }) });
}

function mendDamaged(damaged: readonly string[]): Finding {
  return {
    status: "failure",
    detail: `Damaged: ${damaged.join(", ")}.`,
    mend: {
      say: `Run: smolvm image pull ${damaged.join(" ")}`,
      fix: {
        what: `put ${damaged.join(", ")} right`,
        async run(signal) {
          const { defaultImage } = await import("../build/index.js");
          const manager = await managerInUse(signal);
          for (const name of damaged) {
            const made = madeHere(name, manager);
            await (made !== null
              ? defaultImage({ arch: made.arch, signal })
              : manager.ensureImage(name, { verify: "full", signal }));
          }
        },
      },
    },
  };
}
