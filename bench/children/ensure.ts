// Asks for a cached image in a fresh process: once, and then again and again. Prints the times in milliseconds, and the longest
// that the event loop stood still meanwhile.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";

import { ImageManager, type ImageSourceFields } from "../../src/images/index.js";
import { median } from "../measure.js";

/** The order, as JSON in the first argument. */
export interface Order {
  readonly cacheDir: string;
  readonly registry: Readonly<Record<string, ImageSourceFields>>;
  readonly name: string;
  readonly verify: "auto" | "full";
  /** Calls after the first. */
  readonly again: number;
}

export interface Answer {
  readonly first: number;
  /** Median of the later calls; null if there were none. */
  readonly later: number | null;
  readonly longestBlock: number;
}

/** The histogram can't tell a block from its own interval, so this much of what it says is the interval. */
const RESOLUTION_MS = 1;

const { cacheDir, registry, name, verify, again } = JSON.parse(process.argv[2] ?? "") as Order;
const manager = new ImageManager({ cacheDir, registry });
const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
if (verify === "full") delay.enable();

const ask = async (): Promise<number> => {
  const began = performance.now();
  await manager.ensureImage(name, { verify });
  return performance.now() - began;
};
const first = await ask();
await sleep(2 * RESOLUTION_MS);
delay.disable();
const later: number[] = [];
for (let call = 0; call < again; call++) later.push(await ask());
const answer: Answer = {
  first,
  later: later.length === 0 ? null : median(later),
  longestBlock: verify === "full" ? delay.max / 1e6 - RESOLUTION_MS : 0,
};
process.stdout.write(JSON.stringify(answer));
