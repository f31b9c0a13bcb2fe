/**
 * How long the shell waits for the shortest commands, beside an empty Node program. "Cold" is a new process each time; the
 * files are in the page cache for all of them. Needs npm run build.
 *
 *   node build/bench/startup.js [rounds]
 */
import { join } from "node:path";

import { interleave, median, printFindings, printRuns, roundsOr, smolvmCommand, temporaryFolder } from "./measure.js";

const rounds = roundsOr(25);
using folder = temporaryFolder();
const env = { SMOLVM_HOME: folder.path, SMOLVM_IMAGE_DIR: join(folder.path, "images") };
const smolvm = smolvmCommand();
const [empty, version, list] = ["node -e 0", "smolvm --version", "smolvm image ls"] as const;
const runs = await interleave(
  [
    { name: empty, command: [process.execPath, "-e", "0"] },
    { name: version, command: [...smolvm, "--version"], env },
    { name: list, command: [...smolvm, "image", "ls"], env },
  ],
  rounds,
);
const wall = (name: string): number => median((runs.get(name) ?? []).map((run) => run.wall));
printFindings(`From the shell, ${rounds} rounds`, [
  { what: `${version}, to ${empty}`, measured: wall(version) / wall(empty), unit: " ×", most: 1.6 },
  { what: `${list}, to ${empty}`, measured: wall(list) / wall(empty), unit: " ×", most: 1.6 },
]);
printRuns("All of them", runs, empty);
