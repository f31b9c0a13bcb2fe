/**
 * How long the command line takes before it has answered, against Node doing nothing. Needs `npm run build`.
 *
 *   node build/bench/startup.js [rounds]
 */
import { execPath } from "node:process";
import { join } from "node:path";

import { packageRoot } from "../src/host/package.js";
import { type Contender, interleave, median, printFindings, printRuns, roundsOr, temporaryFolder } from "./measure.js";

const program = join(packageRoot(), "dist", "cli", "smolvm.cjs");
using home = temporaryFolder();
const env = { SMOLVM_HOME: home.path, SMOLVM_IMAGE_DIR: join(home.path, "images") };

const smolvm = (...args: string[]): Contender => ({
  name: ["smolvm", ...args].join(" "),
  command: [execPath, program, ...args],
  env,
});
const node: Contender = { name: "node -e 0", command: [execPath, "-e", "0"] };
const lookups = [smolvm("--version"), smolvm("image", "ls"), smolvm("--help")];

const runs = await interleave([node, ...lookups], roundsOr(21));
const medianOf = ({ name }: Contender): number => median((runs.get(name) ?? []).map((run) => run.wall));

printFindings(
  "Starting, as a multiple of node -e 0",
  lookups.map((lookup) => ({
    what: lookup.name,
    measured: medianOf(lookup) / medianOf(node),
    unit: " ×",
    ...(lookup.name.endsWith("--help") ? {} : { most: 1.6 }),
  })),
);
printRuns("The runs", runs, node.name);
