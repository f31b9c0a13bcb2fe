/**
 * What a command costs on a machine that runs: the whole of run(), the channel by itself, and starting a program in the guest
 * by itself, measured there by a loop in C. Needs a C compiler with a static libc.
 *
 *   node build/bench/commands.js [rounds]
 */
import { execFileSync } from "node:child_process";
import { join } from "node:path";

import { packageRoot } from "../src/host/package.js";
import { connectGuest } from "../src/guest/index.js";
import { connectUnix, laneSocket } from "../src/hypervisor/index.js";
import { machinesDir } from "../src/host/home.js";
import { SmolVM } from "../src/index.js";
import { ownHome } from "../test/machine/setting.js";
import { median, percentile, printFindings, quietMoment, roundsOr, temporaryFolder } from "./measure.js";

/** Of each kind in one round. */
const CALLS = 50;
const AT_ONCE = 200;

const rounds = roundsOr(6);
using folder = temporaryFolder();
const loop = join(folder.path, "spawn-loop");
execFileSync("cc", ["-static", "-O2", "-o", loop, join(packageRoot(), "bench", "spawn-loop.c")]);

const home = ownHome();
try {
  await using vm = await SmolVM.create();
  await vm.files.upload(loop, "/tmp/spawn-loop");
  // The last lane: a second connection to the same agent, for what only the channel costs.
  const socket = await connectUnix(join(machinesDir(), vm.vmId, "run"), laneSocket(7), { timeoutMs: 5000 });
  const channel = await connectGuest(socket, { timeoutMs: 5000 });

  const timed = async (act: () => Promise<unknown>): Promise<number> => {
    const began = performance.now();
    await act();
    return performance.now() - began;
  };
  const floor = async (how: "fork" | "vfork" | "whole"): Promise<number[]> =>
    (await vm.run(["/tmp/spawn-loop", how, String(CALLS), "/bin/true"])).output
      .split("\n")
      .map((us) => Number(us) / 1000);

  const list: number[] = [];
  const text: number[] = [];
  const ping: number[] = [];
  const vforks: number[] = [];
  const forks: number[] = [];
  const wholes: number[] = [];
  const together: number[] = [];
  let failed = 0;
  // The first commands pay for the emulator's translation of what they run.
  for (let warm = 0; warm < 20; warm++) await vm.run(["true"]);
  for (let round = 0; round < rounds; round++) {
    await quietMoment();
    for (let call = 0; call < CALLS; call++) list.push(await timed(() => vm.run(["true"])));
    for (let call = 0; call < CALLS; call++) text.push(await timed(() => vm.run("true")));
    for (let call = 0; call < CALLS; call++) ping.push(await channel.ping());
    vforks.push(...(await floor("vfork")));
    forks.push(...(await floor("fork")));
    wholes.push(...(await floor("whole")));
    const all = Array.from({ length: AT_ONCE }, (_, index) => vm.run(["echo", String(index)]));
    together.push(
      await timed(async () => {
        for (const [index, result] of (await Promise.allSettled(all)).entries()) {
          if (result.status === "rejected" || result.value.stdout !== `${index}\n`) failed++;
        }
      }),
    );
  }
  channel.close();

  printFindings(`Commands on a running machine, ${rounds} rounds of ${CALLS} of each`, [
    { what: 'run(["true"]), median', measured: median(list), unit: " ms", most: 12 },
    { what: 'run(["true"]), 95 % within', measured: percentile(list, 0.95), unit: " ms" },
    {
      what: "of it: a program's start and end in the guest, with pipes, a session and a cgroup, in C",
      measured: median(wholes),
      unit: " ms",
    },
    { what: "of it: the channel and both ends", measured: median(list) - median(wholes), unit: " ms", most: 1 },
    { what: "for comparison: the channel alone, there and back", measured: median(ping), unit: " ms" },
    { what: "for comparison: vfork, exec and wait in C", measured: median(vforks), unit: " ms" },
    { what: "for comparison: fork, exec and wait in C", measured: median(forks), unit: " ms" },
    { what: 'run("true"), which starts a shell', measured: median(text), unit: " ms" },
    { what: `${AT_ONCE} commands at once`, measured: median(together), unit: " ms" },
    { what: `errors among ${AT_ONCE * rounds} of them`, measured: failed, unit: "", most: 0 },
  ]);
} finally {
  await home.close();
}
