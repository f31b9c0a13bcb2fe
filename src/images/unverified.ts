import type { AssetKind } from "./store/index.js";

const warned = new Set<string>();

/** Says once in a process that an image was taken as it came: nobody has published what its bytes must hash to. */
export function warnUnverified(name: string, kinds: readonly AssetKind[]): void {
  if (warned.has(name)) return;
  warned.add(name);
  process.emitWarning(
    `Image '${name}' could not be verified: its source has no SHA-256 for the ${kinds.join(" and the ")}.`,
    {
      type: "SmolVMWarning",
      code: "SMOLVM_UNVERIFIED_IMAGE",
      detail: "Its digest is remembered, and a later download that differs is refused. Pin the digest in the registry.",
    },
  );
}
