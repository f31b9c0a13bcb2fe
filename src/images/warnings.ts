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

/** Says that files which somebody had put into an image's folder were not the image's, and where they are now. */
export function warnSetAside(name: string, paths: readonly string[]): void {
  process.emitWarning(
    `Files in the folder of image '${name}' were not what its source describes, and were moved away.`,
    {
      type: "SmolVMWarning",
      code: "SMOLVM_FILES_SET_ASIDE",
      detail: `They are kept until the next 'smolvm image prune': ${paths.join(", ")}`,
    },
  );
}
