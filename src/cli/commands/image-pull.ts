import type { LocalImage } from "../../images/index.js";
import { defineCommand } from "../command.js";
import { describeFailure, printFailure, STATUS } from "../failure.js";
import { ensureImage, type EnsureOptions, IMAGE_OPTIONS, imageManager } from "../images.js";
import { Progress } from "../progress.js";

export const imagePull = defineCommand({
  summary: "Download images and verify them",
  description: `What is here already and verifies is not downloaded again; what was interrupted goes on from where it
was. Several images come at the same time. 'default' is not downloaded but made, from packages of this host.`,
  positionals: [{ name: "NAME", repeat: true, completes: "image" }],
  options: {
    ...IMAGE_OPTIONS,
    "accept-new": { summary: "Accept other bytes than those seen before, for an image that has no published digest" },
  },
  examples: ["smolvm image pull hello", "smolvm image pull --registry ./images.json a b"],
  async run({ positionals, options }, { signal }) {
    const manager = await imageManager(options, signal);
    const images = await pull([...new Set(positionals)], { manager, signal, acceptNew: options["accept-new"] });
    return {
      data: images.map(({ name, kernelPath, rootfsPath, initrdPath }) => ({
        name,
        kernelPath,
        rootfsPath,
        initrdPath: initrdPath ?? null,
      })),
      text: images.map((image) => `${image.name}\n`).join(""),
    };
  },
});

/** All at once; when one fails the others are still brought to their end, so that nothing has to be fetched twice. */
async function pull(names: readonly string[], options: EnsureOptions): Promise<LocalImage[]> {
  using progress = new Progress();
  const results = await Promise.allSettled(names.map((name) => ensureImage(name, { ...options, progress })));
  const failed = results.filter((result) => result.status === "rejected");
  // The command fails with the first; the others are said before it.
  for (const { reason } of failed.slice(1)) printFailure(describeFailure(reason, STATUS.failed), undefined);
  return results.map((result) => {
    if (result.status === "rejected") throw failed[0]?.reason;
    return result.value;
  });
}
