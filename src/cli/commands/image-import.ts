import { defineCommand } from "../command.js";
import { cacheManager } from "../images.js";
import { Progress } from "../progress.js";

export const imageImport = defineCommand({
  summary: "Take an image from an archive, verified member by member",
  positionals: [{ name: "FILE", completes: "path" }],
  options: {
    name: { value: "NAME", summary: "The image's name here (default: the one in the archive)" },
    trust: {
      summary: "Believe the archive that it has what compressed, pinned addresses serve (nothing can prove it)",
    },
    force: { summary: "Replace an image of the same name" },
  },
  examples: ["smolvm image import hello.smolvm"],
  async run({ positionals: [path = ""], options }, { signal }) {
    const manager = await cacheManager();
    using progress = new Progress();
    const image = await manager.importArchive(path, {
      signal,
      onProgress: progress.image,
      force: options.force,
      trust: options.trust,
      ...(options.name === undefined ? {} : { name: options.name }),
    });
    return { data: image, text: `${image.name}\n` };
  },
});
