/**
 * What it takes to give a machine a disk of its own: copies of a 2 GiB image of which a tenth is data,
 * Needs cp and 5 GiB of disk.
 *
 *   node build/bench/sparse-copy.js [rounds]
 */
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { MIB, writeMostlyEmpty } from "./image-files.js";
import { interleave, median, printFindings, printRuns, roundsOr, temporaryFolder, type Contender } from "./measure.js";

const SIZE = 2048 * MIB;
const rounds = roundsOr(7);
using folder = temporaryFolder();
const from = join(folder.path, "image");
const to = join(folder.path, "copy");
const { data, runs } = writeMostlyEmpty(from, SIZE);

const program = fileURLToPath(new URL("./children/copy.js", import.meta.url));
const allocated = new Map<string, number>();
const contender = (name: string, command: readonly string[]): Contender => ({
  name,
  command,
  before: () => rmSync(to, { force: true }),
  after: () => {
    const { size, blocks } = statSync(to);
    if (size !== SIZE) throw new Error(`${name}: the copy has ${size} bytes`);
    allocated.set(name, blocks * 512);
  },
});
const [known, scanned, dense] = [
  "smolvm, places of the data known",
  "smolvm, zeros looked for",
  "fs.copyFile",
] as const;
const results = await interleave(
  [
    contender(known, [process.execPath, program, "sparse", from, to, JSON.stringify(runs)]),
    contender(scanned, [process.execPath, program, "sparse", from, to]),
    contender(dense, [process.execPath, program, "copyFile", from, to]),
    contender("cp", ["cp", from, to]),
    contender("cp --sparse=never", ["cp", "--sparse=never", "--reflink=never", from, to]),
  ],
  rounds,
);
const wall = (name: string): number => median((results.get(name) ?? []).map((run) => run.wall));
const disk = (name: string): number => (allocated.get(name) ?? Number.NaN) / data;
printFindings(`Copies of a 2 GiB image with ${(data / MIB).toFixed(0)} MiB of data, ${rounds} rounds`, [
  { what: `${known}: disk, to the data`, measured: disk(known), unit: " ×", most: 1.05 },
  { what: `${scanned}: disk, to the data`, measured: disk(scanned), unit: " ×", most: 1.05 },
  { what: "cp: disk, to the data", measured: disk("cp"), unit: " ×" },
  { what: `${dense}: disk, to the data`, measured: disk(dense), unit: " ×" },
  { what: `${known}: time, to ${dense}`, measured: wall(known) / wall(dense), unit: " ×", most: 0.3 },
  { what: `${scanned}: time, to ${dense}`, measured: wall(scanned) / wall(dense), unit: " ×" },
]);
printRuns("All of them", results, dense);
