import { printable } from "../../printable.js";
import { defineCommand } from "../command.js";
import { IMAGE_OPTIONS, managerOfWhatIsKnown } from "../images.js";
import { formatBytes, table } from "../output.js";

export const imageLs = defineCommand({
  summary: "List the images, and which of them are here",
  description: `ON DISK is what an image occupies, SIZE what it seems to hold: images have holes. VERIFIED is when its bytes
were last held against their digest.`,
  options: { ...IMAGE_OPTIONS },
  async run({ options }, { signal }) {
    const manager = await managerOfWhatIsKnown(options, signal);
    const images = await manager.list();
    const rows = images.map((image) => [
      image.name,
      image.cached ? "✓" : "✗",
      image.allocatedBytes === null ? "-" : formatBytes(image.allocatedBytes),
      image.sizeBytes === null ? "-" : formatBytes(image.sizeBytes),
      image.verifiedAt ?? "-",
      printable(image.source ?? image.origin),
    ]);
    return { data: images, text: table([["NAME", "HERE", "ON DISK", "SIZE", "VERIFIED", "SOURCE"], ...rows]) };
  },
});
