import { defineCommand } from "../command.js";
import { IMAGE_OPTIONS, withCached } from "../images.js";
import { formatBytes } from "../output.js";
import { Progress } from "../progress.js";
import { print } from "../terminal.js";

export const imageExport = defineCommand({
  summary: "Write an image to one archive, with every digest in it",
  positionals: [
    { name: "NAME", completes: "image" },
    { name: "FILE", completes: "path" },
  ],
  options: { ...IMAGE_OPTIONS },
  examples: ["smolvm image export hello hello.smolvm"],
  async run({ positionals: [name = "", path = ""], options }, { signal }) {
    using progress = new Progress();
    const written = await withCached(options, signal, (manager) =>
      manager.exportArchive(name, path, { signal, onProgress: progress.image }),
    );
    print(`${path}: ${formatBytes(written.bytes)}`);
    return { data: { name, ...written } };
  },
});
