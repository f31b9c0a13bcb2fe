import type { PruneReport } from "../../images/index.js";
import { defineCommand } from "../command.js";
import { cacheManager } from "../images.js";
import { formatBytes, table } from "../output.js";
import { canAsk, confirm, print } from "../terminal.js";

export const imagePrune = defineCommand({
  summary: "Remove from the cache what no image uses",
  description: `Shows first what would go: content without an image, downloads that were given up, stale locks. Then it
asks; without a terminal it removes nothing unless --yes is given. What a running machine uses is never removed.`,
  options: {
    yes: { short: "y", summary: "Do not ask" },
    "dry-run": { summary: "Only show what would go" },
  },
  async run({ options }, { signal }) {
    const manager = await cacheManager();
    const found = await manager.prune({ dryRun: true });
    if (found.removed.length === 0 || options["dry-run"]) return outcome(found);
    if (!options.yes && !(await agreed(found, signal))) return outcome(found);
    return outcome(await manager.prune({ dryRun: false }));
  },
});

async function agreed(found: PruneReport, signal: AbortSignal): Promise<boolean> {
  if (!canAsk()) {
    print("smolvm: nothing was removed; to remove it, run: smolvm image prune --yes");
    return false;
  }
  process.stderr.write(rows(found));
  return confirm(`Remove this and free ${formatBytes(found.freedBytes)}?`, signal);
}

function outcome(report: PruneReport) {
  const sum = formatBytes(report.freedBytes);
  print(report.dryRun ? `${sum} would be freed` : `${sum} freed`);
  return { data: report, text: rows(report) };
}

function rows({ removed }: PruneReport): string {
  return table(removed.map(({ what, path, allocatedBytes }) => [what, formatBytes(allocatedBytes), path]));
}
