import type { ImageManager, VerifyReport } from "../../images/index.js";
import { defineCommand } from "../command.js";
import { STATUS } from "../failure.js";
import { IMAGE_OPTIONS, managerOfWhatIsKnown, withCached } from "../images.js";
import { Progress } from "../progress.js";
import { print, red } from "../terminal.js";

export const imageVerify = defineCommand({
  summary: "Read images that are here and hold every byte against the digest",
  description: "Without a NAME every image that is here is read. Nothing is repaired: 'smolvm image pull' does that.",
  positionals: [{ name: "NAME", optional: true, repeat: true, completes: "image" }],
  options: { ...IMAGE_OPTIONS },
  examples: ["smolvm image verify", "smolvm image verify hello && echo whole"],
  async run({ positionals, options }, { signal }) {
    const names = positionals.length > 0 ? positionals : await cachedNames(options);
    const reports: VerifyReport[] = [];
    {
      using progress = new Progress();
      for (const name of names) {
        const verify = (manager: ImageManager) => manager.verify(name, { signal, onProgress: progress.image });
        reports.push(await withCached(options, verify));
      }
    }
    const damaged = reports.filter((report) => !report.ok);
    for (const report of damaged) explain(report);
    return {
      data: reports,
      text: reports.map(({ name, ok }) => `${ok ? "✓" : "✗"} ${name}\n`).join(""),
      ...(damaged.length === 0 ? {} : { exitCode: STATUS.failed, error: failure(damaged) }),
    };
  },
});

async function cachedNames(options: { readonly registry: string | undefined }): Promise<string[]> {
  const manager = await managerOfWhatIsKnown(options);
  return (await manager.list()).filter((image) => image.cached).map((image) => image.name);
}

function explain({ name, assets }: VerifyReport): void {
  for (const { kind, expected, actual } of assets.filter((asset) => !asset.ok)) {
    print(`${red("smolvm:")} the ${kind} of '${name}' is damaged`);
    print(`  expected: ${expected}`);
    print(`  actual:   ${actual ?? "(missing)"}`);
  }
}

function failure(damaged: readonly VerifyReport[]) {
  const names = damaged.map(({ name }) => name);
  return {
    exitCode: STATUS.failed,
    code: "IMAGE_CHECKSUM_MISMATCH",
    message: `Damaged: ${names.join(", ")}`,
    hint: `Run: smolvm image pull ${names.join(" ")}`,
    details: { names },
  };
}
