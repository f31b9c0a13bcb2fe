import { printable } from "../../printable.js";
import { defineCommand } from "../command.js";
import { IMAGE_OPTIONS, withCached } from "../images.js";
import { formatBytes } from "../output.js";
import { forEachName } from "../several.js";
import { print } from "../terminal.js";

export const imageRm = defineCommand({
  summary: "Remove images from the cache",
  description: `An image that a machine runs on is kept, and the command fails. What others have put into an image's folder stays.`,
  positionals: [{ name: "NAME", repeat: true, completes: "image" }],
  options: { ...IMAGE_OPTIONS },
  async run({ positionals, options }, invocation) {
    const { done, ...outcome } = await forEachName(positionals, invocation, async (name) => {
      const { freedBytes, kept } = await withCached(options, invocation.signal, (manager) => manager.remove(name));
      print(`${name}: removed, ${formatBytes(freedBytes)} freed`);
      for (const path of kept) print(`smolvm: kept, as it is not part of the image: ${printable(path)}`);
      return { freedBytes, kept };
    });
    return { ...outcome, data: [...done].map(([name, { ok, told, error }]) => ({ name, ok, ...told, error })) };
  },
});
