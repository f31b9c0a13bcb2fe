/**
 * A 2 GiB image of which a tenth is data: what it takes to write it with its holes as its bytes come, beside writing all of
 * them; and all of a transfer over loopback, where receiving and hashing 2 GiB cost more than either. Needs nginx, curl and python3.
 *
 *   node build/bench/transfer/sparse.js [rounds]
 */
import { mkdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { MIB, writeMostlyEmpty } from "../image-files.js";
import { interleave, median, printFindings, printRuns, roundsOr, temporaryFolder, type Contender } from "../measure.js";
import { touchMemory } from "./memory.js";
import { Nginx } from "./nginx.js";

const SIZE = 2048 * MIB;
const [SPARSE, DENSE] = ["its bytes written with holes, fsynced", "its bytes written densely, fsynced"] as const;
const [OURS, SYNCED] = ["smolvm, verified and fsynced", "curl -o; sync -d"] as const;
const rounds = roundsOr(5);

using temporary = temporaryFolder();
const folder = temporary.path;
mkdirSync(join(folder, "www"));
const image = join(folder, "www", "image");
const { digest, data } = writeMostlyEmpty(image, SIZE);
await using nginx = await Nginx.start({ folder, address: "127.0.0.1" });
const url = `http://127.0.0.1:${nginx.port}/image`;
const [out, partial] = [join(folder, "out"), join(folder, "partial")];
const program = (name: string): string[] => [process.execPath, fileURLToPath(new URL(`./${name}.js`, import.meta.url))];
const allocated = new Map<string, number>();
const contender = (name: string, command: readonly string[]): Contender => ({
  name,
  command,
  before: () => touchMemory(SIZE),
  after: () => {
    const { blocks, size } = statSync(out);
    if (size !== SIZE) throw new Error(`${name}: the file has ${size} bytes`);
    allocated.set(name, blocks * 512);
    rmSync(out);
  },
});
const runs = await interleave(
  [
    contender(SPARSE, [...program("write"), "sparse", image, out]),
    contender(DENSE, [...program("write"), "dense", image, out]),
    contender(OURS, [...program("ours"), url, digest, partial, out, "durable"]),
    contender(SYNCED, ["sh", "-c", `curl -sf -o ${out} ${url} && sync -d ${out}`]),
  ],
  rounds,
);
const wall = (name: string): number => median((runs.get(name) ?? []).map((run) => run.wall));
const disk = (name: string): number => (allocated.get(name) ?? Number.NaN) / data;
printFindings(`A 2 GiB image with ${(data / MIB).toFixed(0)} MiB of data, ${rounds} rounds`, [
  { what: "disk used by the transfer, to the data", measured: disk(OURS), unit: " ×", most: 1.05 },
  { what: "writing it with holes, to writing it densely", measured: wall(SPARSE) / wall(DENSE), unit: " ×", most: 0.3 },
  { what: `the whole transfer, verified and durable, to ${SYNCED}`, measured: wall(OURS) / wall(SYNCED), unit: " ×" },
]);
printRuns("All of them", runs, SYNCED);
