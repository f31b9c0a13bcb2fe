import type { VerifyReport } from "../../images/index.js";
import { defineCommand, type Invocation } from "../command.js";
import { STATUS } from "../failure.js";
import { IMAGE_OPTIONS, managerOfWhatIsKnown, withCached } from "../images.js";
import { Progress } from "../progress.js";
import { forEachName } from "../several.js";
import { print, red } from "../terminal.js";

export const imageVerify = defineCommand({
  summary: "Read images that are here and hold every byte against the digest",
  description: "Without a NAME every image that is here is read. Nothing is repaired: 'smolvm image pull' does that.",
  positionals: [{ name: "NAME", optional: true, repeat: true, completes: "image" }],
  options: { ...IMAGE_OPTIONS },
  examples: ["smolvm image verify", "smolvm image verify hello && echo whole"],
  async run({ positionals, options }, invocation) {
    const names = positionals.length > 0 ? positionals : await cachedNames(options, invocation.signal);
    const { done, ...outcome } = await forEachName(
      names,
      invocation,
      verifyWith(options, invocation),
      (name, { ok }) => (ok ? `✓ ${name}` : `✗ ${name}`),
    );
    const rows = [...done].map(([name, { ok, told, error }]) => ({
      name,
      ok: told?.ok ?? ok,
      assets: [],
      ...told,
      error,
    }));
    const damaged = rows.filter(({ ok, error }) => !ok && error === null).map(({ name }) => name);
    return {
      ...outcome,
      data: rows,
      ...(damaged.length === 0 ? {} : { exitCode: STATUS.failed, error: failure(damaged) }),
    };
  },
});

function verifyWith(options: { readonly registry: string | undefined }, { signal }: Invocation) {
  return async (name: string): Promise<VerifyReport> => {
    using progress = new Progress();
    const report = await withCached(options, signal, (manager) =>
      manager.verify(name, { signal, onProgress: progress.image }),
    );
    explain(report);
    return report;
  };
}

async function cachedNames(options: { readonly registry: string | undefined }, signal: AbortSignal): Promise<string[]> {
  const manager = await managerOfWhatIsKnown(options, signal);
  return (await manager.list()).filter((image) => image.cached).map((image) => image.name);
}

function explain({ name, assets }: VerifyReport): void {
  for (const { kind, expected, actual } of assets.filter((asset) => !asset.ok)) {
    print(`${red("smolvm:")} the ${kind} of '${name}' is damaged`);
    print(`  expected: ${expected}`);
    print(`  actual:   ${actual ?? "(missing)"}`);
  }
}

function failure(names: readonly string[]) {
  return {
    exitCode: STATUS.failed,
    code: "IMAGE_CHECKSUM_MISMATCH",
    message: `Damaged: ${names.join(", ")}`,
    hint: `Run: smolvm image pull ${names.join(" ")}`,
    details: { names },
  };
}
