/**
 * What smolvm adds to the boot of a machine: `smolvm run -- true` from the shell beside QEMU by itself, by the same command line
 * to the same agent; and what a machine takes in the program that holds it. Needs npm run build.
 *
 *   node build/bench/boot.js [rounds]
 */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { SmolVM } from "../src/index.js";
import { ownHome } from "../test/machine/setting.js";
import type { Order } from "./children/bare-boot.js";
import type { Usage } from "./children/memory.js";
import { MIB } from "./image-files.js";
import {
  interleave,
  median,
  printFindings,
  roundsOr,
  runChild,
  takeTurns,
  temporaryFolder,
  smolvmCommand,
  printMeasured,
} from "./measure.js";

const MACHINES = 8;
const BARE = "QEMU alone, to the agent's first frame";
const RUN = "smolvm run -- true, from start to exit";
const CREATE = "SmolVM.create() in a program that runs";
const rounds = roundsOr(9);
using folder = temporaryFolder();
const home = ownHome();
try {
  const order = JSON.stringify(await bareOrder());
  const run = { name: "run", command: [...smolvmCommand(), "run", "--", "true"] };
  const walls = await takeTurns(
    [
      { name: BARE, run: () => runChild<number>("bare-boot", [order]) },
      { name: RUN, run: async () => ((await interleave([run], 1)).get("run")?.[0]?.wall ?? Number.NaN) * 1000 },
      { name: CREATE, run: create },
    ],
    rounds,
  );
  const memory: (readonly [one: Usage, all: Usage])[] = [];
  for (let round = 0; round < Math.ceil(rounds / 3); round++) {
    memory.push(await runChild<[Usage, Usage]>("memory", [String(MACHINES)], ["--expose-gc"]));
  }
  const middle = (name: string): number => median(walls.get(name) ?? []);
  const each = (of: (usage: Usage) => number): number =>
    median(memory.map(([one, all]) => (of(all) - of(one)) / (MACHINES - 1) / MIB));
  printFindings(`A machine's boot, ${rounds} rounds`, [
    { what: BARE, measured: middle(BARE), unit: " ms" },
    { what: RUN, measured: middle(RUN), unit: " ms" },
    { what: "the difference", measured: middle(RUN) - middle(BARE), unit: " ms", most: 250 },
    { what: CREATE, measured: middle(CREATE), unit: " ms" },
    {
      what: `resident memory of the program, for each machine more (1 to ${MACHINES})`,
      measured: each(({ resident }) => resident),
      unit: " MiB",
      most: 1,
    },
    { what: "of it: JavaScript's heap and buffers", measured: each(({ heap }) => heap), unit: " MiB" },
  ]);
  printMeasured("All of them", "ms", walls);
} finally {
  await home.close();
}

async function create(): Promise<number> {
  const began = performance.now();
  await using _vm = await SmolVM.create();
  return performance.now() - began;
}

/** Takes QEMU's command line, the files it is about and the disk from a machine that smolvm has started. */
async function bareOrder(): Promise<Order> {
  await using vm = await SmolVM.create();
  const { pid, folder: machine, kernelPath, rootfsPath } = vm.info;
  const command = readFileSync(`/proc/${pid ?? 0}/cmdline`, "utf8")
    .split("\0")
    .slice(0, -1);
  await vm.stop();
  const at = (name: string): string => join(folder.path, name);
  copyFileSync(join(machine, "initrd.img"), at("initrd.img"));
  copyFileSync(join(machine, "disk.qcow2"), at("disk"));
  writeFileSync(at("console.log"), "");
  /* QEMU is given descriptors: /dev/fdset/N is the one that "-add-fd fd=…,set=N" names, /proc/self/fd/N is N itself. */
  const text = command.join("\n");
  const descriptor = (by: RegExp): number => {
    const [, kind, number] = by.exec(text) ?? [];
    const set = new RegExp(`^fd=(\\d+),set=${number ?? ""}$`, "m");
    return Number(kind === "/dev/fdset" ? set.exec(text)?.[1] : number);
  };
  const where = "(/dev/fdset|/proc/self/fd)/(\\d+)";
  const files = new Map<number, Order["files"][number]>([
    [descriptor(new RegExp(`^-kernel\n${where}$`, "m")), { path: kernelPath ?? "", flags: "r" }],
    [descriptor(new RegExp(`^-initrd\n${where}$`, "m")), { path: at("initrd.img"), flags: "r" }],
    [descriptor(new RegExp(`node-name=disk0-base-file,filename=${where}`)), { path: rootfsPath ?? "", flags: "r" }],
    [descriptor(new RegExp(`node-name=disk0-file,filename=${where}`)), { path: at("disk.qcow2"), flags: "r+" }],
    [descriptor(new RegExp(`id=console,path=${where}`)), { path: at("console.log"), flags: "a" }],
  ]);
  const ordered = [...files].sort(([a], [b]) => a - b);
  if (ordered.some(([fd], index) => fd !== index + 3))
    throw new Error(`QEMU was started in a way unknown here:\n${text}`);
  return {
    command,
    files: ordered.map(([, file]) => file),
    disk: { from: at("disk"), to: at("disk.qcow2") },
    folder: at("run"),
  };
}
