// Starts machines one after the other and prints what this program, which holds them, takes in memory with 1 and with all of
// them, in bytes. Needs --expose-gc.
import { SmolVM } from "../../src/index.js";

export interface Usage {
  readonly resident: number;
  readonly heap: number;
}

const count = Number(process.argv[2]);
const collect = globalThis.gc;
if (collect === undefined) throw new Error("start it with --expose-gc");

const machines: SmolVM[] = [];
try {
  // The first one to come and go leaves behind what is loaded and compiled once for all of them.
  for (let warm = 0; warm < 2; warm++) await (await another()).delete();
  machines.push(await another());
  const one = await usage();
  while (machines.length < count) machines.push(await another());
  process.stdout.write(JSON.stringify([one, await usage()]));
} finally {
  await Promise.all(machines.map((vm) => vm.delete()));
}

async function another(): Promise<SmolVM> {
  const vm = await SmolVM.create({ memSizeMib: 128 });
  await vm.run(["true"]);
  return vm;
}

async function usage(): Promise<Usage> {
  for (let pass = 0; pass < 3; pass++) {
    collect?.();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { rss, heapUsed, external } = process.memoryUsage();
  return { resident: rss, heap: heapUsed + external };
}
