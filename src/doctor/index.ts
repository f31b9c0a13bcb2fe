/** What has to be true on this host for machines to run, each found out by doing it. */
import { accelerator } from "./accelerator.js";
import { boot } from "./boot.js";
import { cache } from "./cache.js";
import type { Check } from "./check.js";
import { disk } from "./disk.js";
import { machines } from "./machines.js";
import { node } from "./node.js";
import { tools } from "./tools.js";

export type { Check, Finding } from "./check.js";

/** In the order in which they depend on each other. */
export const CHECKS: readonly Check[] = [node, ...tools, ...disk, cache, machines, accelerator, boot];
