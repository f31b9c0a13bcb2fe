import { defineCommand } from "../command.js";
import { IMAGE_OPTIONS, imageManager } from "../images.js";
import { formatBytes, table } from "../output.js";

export const imageLs = defineCommand({
  summary: "List the images, and which of them are here",
  options: { ...IMAGE_OPTIONS },
  async run({ options }) {
    const manager = await imageManager(options);
    const images = await manager.list();
    const rows = images.map((image) => [
      image.name,
      image.cached ? "✓" : "✗",
      image.cached ? formatBytes(image.allocatedBytes) : "-",
      image.cached ? formatBytes(image.apparentBytes) : "-",
      image.verifiedAt ?? "-",
      image.source,
    ]);
    return {
      data: images,
      text: table([["NAME", "CACHED", "ON DISK", "SIZE", "VERIFIED", "SOURCE"], ...rows]),
    };
  },
});
