import { defineCommand } from "../command.js";
export const doctor = defineCommand({
  summary: "Check that machines can run here, by running one",
  run() {
    return Promise.resolve({});
  },
});
