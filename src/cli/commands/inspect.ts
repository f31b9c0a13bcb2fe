import { defineCommand } from "../command.js";
import { machine, MACHINE } from "../machines.js";

export const inspect = defineCommand({
  summary: "Show everything that is known of a machine, as JSON",
  positionals: [MACHINE],
  async run({ positionals: [id = ""] }) {
    const { info } = await machine(id);
    return { data: info, text: `${JSON.stringify(info, null, 2)}\n` };
  },
});
