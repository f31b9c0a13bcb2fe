import type { Check } from "./check.js";

/** The oldest Node that the library is written for, as package.json has it. */
const OLDEST = [20, 19] as const;

export const node: Check = {
  name: "Node",
  run() {
    const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
    const recent = major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
    return Promise.resolve(
      recent
        ? { status: "ok", detail: process.versions.node }
        : {
            status: "failure",
            detail: `${process.versions.node} is too old.`,
            mend: { say: `Install Node ${OLDEST.join(".")} or newer.` },
          },
    );
  },
};
