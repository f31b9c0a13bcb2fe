/**
 * What it costs to make an image: the default image step by step, and a root filesystem out of a tar archive beside mke2fs, which has
 * to unpack it first. Needs the host's package archive, e2fsprogs, tar and 3 GiB of disk.
 *
 *   node build/bench/build.js [rounds]
 */
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { defaultImage } from "../src/build/index.js";
import { requireTool } from "../src/host/tools.js";
import { MIB } from "./image-files.js";
import { interleave, median, printRuns, printTable, quietMoment, roundsOr, temporaryFolder } from "./measure.js";

const rounds = roundsOr(5);
using folder = temporaryFolder();
const at = (name: string): string => join(folder.path, name);

await benchDefaultImage();
await benchRootfs();

async function benchDefaultImage(): Promise<void> {
  const steps = new Map<string, number[]>();
  const note = (step: string, milliseconds: number): unknown =>
    steps.set(step, [...(steps.get(step) ?? []), milliseconds]);
  for (let round = 0; round < rounds; round++) {
    await quietMoment();
    const cacheDir = at(`images${round}`);
    const began = performance.now();
    let step = "finding the packages";
    let since = began;
    const turn = (next: string): void => {
      note(step, performance.now() - since);
      since = performance.now();
      step = next.replace(/^downloading.*/, "downloading");
    };
    await defaultImage({ cacheDir, onStep: ({ step: next }) => turn(next) });
    turn("");
    note("all", performance.now() - began);
    rmSync(cacheDir, { recursive: true });
  }
  const rows = [...steps].map(([name, times]) => [
    name,
    ...[median(times), Math.min(...times), Math.max(...times)].map((time) => time.toFixed(0)),
  ]);
  printTable(`The default image, ${rounds} rounds`, ["step", "ms (median)", "min", "max"], rows);
}

async function benchRootfs(): Promise<void> {
  const tree = at("tree");
  writeTree(tree);
  const archive = at("rootfs.tar");
  execFileSync("tar", ["-C", tree, "-cf", archive, "."]);
  const image = at("rootfs.ext4");
  const unpacked = at("unpacked");
  const program = fileURLToPath(new URL("./children/tar-to-ext4.js", import.meta.url));
  const clear = (): void => {
    for (const path of [image, unpacked]) rmSync(path, { recursive: true, force: true });
    mkdirSync(unpacked);
  };
  const mke2fs = `${requireTool("mke2fs")} -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d`;
  const contenders = [
    { name: "smolvm, from the tar", command: [process.execPath, program, archive, image], before: clear },
    { name: "mke2fs -d, already unpacked", command: ["sh", "-c", `${mke2fs} ${tree} ${image} 1G`], before: clear },
    {
      name: "tar x, then mke2fs -d",
      command: ["sh", "-c", `tar -C ${unpacked} -xf ${archive} && ${mke2fs} ${unpacked} ${image} 1G`],
      before: clear,
    },
  ];
  printRuns(
    `A root filesystem of 10 000 files, a tar of ${(statSync(archive).size / MIB).toFixed(0)} MiB`,
    await interleave(contenders, rounds),
    "smolvm, from the tar",
  );
}

/** Files as a distribution has them: many small ones, a few large ones, the same each time. */
function writeTree(root: string): void {
  // A linear congruential generator (Numerical Recipes' constants).
  let state = 1;
  const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const content = Buffer.from(Array.from({ length: 1 << 20 }, () => Math.floor(random() * 256)));
  for (let index = 0; index < 10_000; index++) {
    const parent = join(root, `d${index % 40}`, `e${index % 400}`);
    mkdirSync(parent, { recursive: true });
    const size = Math.floor(600 * 2 ** (random() * (index % 50 === 0 ? 13 : 7)));
    const fd = openSync(join(parent, `file-${index}`), "wx");
    for (let left = size; left > 0; left -= content.length) writeSync(fd, content, 0, Math.min(left, content.length));
    closeSync(fd);
  }
}
