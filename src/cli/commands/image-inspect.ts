import { defineCommand } from "../command.js";
import { IMAGE_OPTIONS, managerOfWhatIsKnown } from "../images.js";

export const imageInspect = defineCommand({
  summary: "Show everything that is known of an image, as JSON",
  positionals: [{ name: "NAME", completes: "image" }],
  options: { ...IMAGE_OPTIONS },
  async run({ positionals: [name = ""], options }, { signal }) {
    const details = await (await managerOfWhatIsKnown(options, signal)).inspect(name);
    return { data: details, text: `${JSON.stringify(details, null, 2)}\n` };
  },
});
