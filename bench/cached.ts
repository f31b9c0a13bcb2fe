/**
 * What an image costs that is in the cache already: 1 GiB dense and 1 GiB mostly empty, trusted by its stamp or read in full.
 * Needs openssl and 5 GiB of disk.
 *
 *   node build/bench/cached.js [rounds]
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { ImageManager, type ImageSourceFields } from "../src/images/index.js";
import type { Answer, Order } from "./children/ensure.js";
import { MIB, writeDense, writeMostlyEmpty } from "./image-files.js";
import {
  interleave,
  median,
  printFindings,
  printRuns,
  quietMoment,
  roundsOr,
  runChild,
  temporaryFolder,
  type Finding,
} from "./measure.js";

const SIZE = 1024 * MIB;
const rounds = roundsOr(9);
using folder = temporaryFolder();
const cacheDir = join(folder.path, "cache");
const origin = join(folder.path, "origin");
mkdirSync(origin);

const at = (file: string): string => join(origin, file);
const address = (file: string): string => pathToFileURL(at(file)).href;
const digests = {
  small: writeDense(at("small"), 8 * MIB),
  dense: writeDense(at("dense"), SIZE),
  second: writeDense(at("second"), SIZE),
  empty: writeMostlyEmpty(at("empty"), SIZE).digest,
};
const image = (name: string, kernel: keyof typeof digests, rootfs: keyof typeof digests): ImageSourceFields => ({
  name,
  kernelUrl: address(kernel),
  kernelSha256: digests[kernel],
  rootfsUrl: address(rootfs),
  rootfsSha256: digests[rootfs],
});
const registry = {
  dense: image("dense", "small", "dense"),
  empty: image("empty", "small", "empty"),
  pair: image("pair", "second", "dense"),
};
const manager = new ImageManager({ cacheDir, registry });
for (const name of Object.keys(registry)) await manager.ensureImage(name);

const order = (name: string, verify: "auto" | "full", again: number): string =>
  JSON.stringify({ cacheDir, registry, name, verify, again } satisfies Order);
const ask = async (name: string, verify: "auto" | "full", again: number): Promise<Answer> => {
  await quietMoment();
  return runChild<Answer>("ensure", [order(name, verify, again)]);
};

const auto = { dense: [] as Answer[], empty: [] as Answer[] };
const full = { dense: [] as Answer[], pair: [] as Answer[] };
const rehash = ["openssl", "dgst", "-sha256"] as const;
const openssl = {
  name: "openssl dgst -sha256, 1 GiB",
  command: [...rehash, at("dense")],
};
const both = {
  name: "two of them side by side",
  command: ["sh", "-c", `${rehash.join(" ")} '${at("dense")}' & ${rehash.join(" ")} '${at("second")}'; wait`],
};
const readings = new Map<string, Awaited<ReturnType<typeof interleave>>>();
for (let round = 0; round < rounds; round++) {
  auto.dense.push(await ask("dense", "auto", 1000));
  auto.empty.push(await ask("empty", "auto", 1000));
  const peers = await interleave([openssl, both], 1);
  readings.set(String(round), peers);
  full.dense.push(await ask("dense", "full", 0));
  full.pair.push(await ask("pair", "full", 0));
}

const walls = new Map(
  [openssl, both].map(({ name }) => [name, [...readings.values()].flatMap((round) => round.get(name) ?? [])]),
);
const seconds = (name: string): number => median((walls.get(name) ?? []).map(({ wall }) => wall));
const firsts = (answers: readonly Answer[]): number => median(answers.map(({ first }) => first));
const laters = (answers: readonly Answer[]): number => median(answers.map(({ later }) => later ?? Number.NaN));
const findings: Finding[] = [
  { what: "auto, first in a process, 1 GiB dense", measured: firsts(auto.dense), unit: " ms", most: 2 },
  { what: "auto, first in a process, 1 GiB mostly empty", measured: firsts(auto.empty), unit: " ms", most: 2 },
  { what: "auto, after that, 1 GiB dense", measured: laters(auto.dense), unit: " ms", most: 0.2 },
  { what: "auto, after that, 1 GiB mostly empty", measured: laters(auto.empty), unit: " ms", most: 0.2 },
  { what: "full, 1 GiB", measured: firsts(full.dense), unit: " ms" },
  {
    what: "full, 1 GiB, to openssl",
    measured: firsts(full.dense) / 1000 / seconds(openssl.name),
    unit: " ×",
    most: 1.1,
  },
  { what: "full, two of 1 GiB", measured: firsts(full.pair), unit: " ms" },
  {
    what: "full, two of 1 GiB, to two openssl side by side",
    measured: firsts(full.pair) / 1000 / seconds(both.name),
    unit: " ×",
    most: 1.1,
  },
  {
    what: "longest that the event loop stood still during full",
    measured: Math.max(...[...full.dense, ...full.pair].map(({ longestBlock }) => longestBlock)),
    unit: " ms",
    most: 20,
  },
];
printFindings(`A cached image, ${rounds} rounds`, findings);
printRuns("Beside it", walls, openssl.name);
