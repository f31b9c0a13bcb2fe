import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";

/** One contestant: a command that does the work once. */
export interface Contestant {
  readonly name: string;
  readonly command: readonly string[];
  /** Makes room for a run. Not measured. */
  readonly before?: () => void;
  /** Throws if the run has not done its work. Not measured. */
  readonly after?: () => void;
}

export interface Row {
  readonly name: string;
  /** Wall times in seconds, in the order of the runs. */
  readonly seconds: readonly number[];
  /** Peak resident memory of each run in MiB. */
  readonly memory: readonly number[];
}

/** Runs all contestants `rounds` times, taking turns, so that what else the machine does hits all of them. */
export async function compete(contestants: readonly Contestant[], rounds: number): Promise<Row[]> {
  const rows = contestants.map(({ name }) => ({ name, seconds: [] as number[], memory: [] as number[] }));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contestants.length; turn++) {
      const index = (turn + round) % contestants.length;
      const [contestant, row] = [contestants[index], rows[index]];
      if (contestant === undefined || row === undefined) continue;
      contestant.before?.();
      await quiet();
      const { seconds, memory } = await measure(contestant.command);
      contestant.after?.();
      row.seconds.push(seconds);
      row.memory.push(memory);
      process.stderr.write(`${contestant.name}: ${seconds.toFixed(2)} s\n`);
    }
  }
  return rows;
}

/** The contestant that runs now, a process group of its own, ends with the benchmark. */
function onRun(child: ChildProcess): void {
  running = child;
  child.once("exit", () => (running = null));
  if (!watched)
    onInterrupt(() => {
      if (running?.pid !== undefined) process.kill(-running.pid, "SIGKILL");
    });
  watched = true;
}

let running: ChildProcess | null = null;
let watched = false;

/** Waits, ten seconds at most (`SMOLVM_BENCH_WAIT` says otherwise), until nothing else keeps the machine busy. */
async function quiet(): Promise<void> {
  for (let waited = 0; waited < 2 * Number(process.env["SMOLVM_BENCH_WAIT"] ?? 10); waited++) {
    const [before, idleBefore] = cpuTimes();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const [after, idleAfter] = cpuTimes();
    if ((idleAfter - idleBefore) / (after - before) > 0.95) return;
  }
}

function cpuTimes(): [all: number, idle: number] {
  const times = cpus().map(
    ({ times: { user, nice, sys, idle, irq } }) => [user + nice + sys + idle + irq, idle] as const,
  );
  return [times.reduce((sum, [all]) => sum + all, 0), times.reduce((sum, [, idle]) => sum + idle, 0)];
}

async function measure(command: readonly string[]): Promise<{ seconds: number; memory: number }> {
  const began = performance.now();
  const child = spawn("/usr/bin/time", ["-f", "%M", ...command], {
    stdio: ["ignore", "ignore", "pipe"],
    detached: true,
  });
  onRun(child);
  let said = "";
  child.stderr.on("data", (text: Buffer) => (said += text.toString()));
  const [status] = (await once(child, "close")) as [number | null];
  const seconds = (performance.now() - began) / 1000;
  if (status !== 0) throw new Error(`${command.join(" ")} failed:\n${said}`);
  return { seconds, memory: Number(said.trim().split("\n").at(-1)) / 1024 };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? NaN)
    : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2;
}

/** Prints medians and, for each row, how it compares with the others. */
export function print(title: string, rows: readonly Row[], ours: string): void {
  const own = median(rows.find((row) => row.name === ours)?.seconds ?? []);
  console.log(`\n${title}\n`);
  console.log("| | median s | min–max | peak MiB | ours is × of it |\n|---|---|---|---|---|");
  for (const { name, seconds, memory } of rows) {
    const middle = median(seconds);
    const spread = `${Math.min(...seconds).toFixed(2)}–${Math.max(...seconds).toFixed(2)}`;
    const ratio = name === ours ? "" : (own / middle).toFixed(2);
    console.log(`| ${name} | ${middle.toFixed(2)} | ${spread} | ${median(memory).toFixed(0)} | ${ratio} |`);
  }
}

/**
 * On a virtual machine the first use of a page after the host took it back costs more than everything else here. Using as
 * many pages as a run will take, just before it, makes the runs comparable.
 */
export function touchMemory(bytes: number): void {
  const path = join("/dev/shm", `smolvm-bench-${process.pid}`);
  const fd = openSync(path, "w");
  try {
    const block = Buffer.alloc(4 * 1024 * 1024, 1);
    for (let at = 0; at < bytes; at += block.length) writeSync(fd, block);
    ftruncateSync(fd, 0);
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}

const cleanups: (() => void)[] = [];

/** What is to be undone if a benchmark is interrupted; latest first. */
export function onInterrupt(cleanup: () => void): void {
  if (cleanups.length === 0) {
    for (const [signal, status] of [
      ["SIGINT", 130],
      ["SIGTERM", 143],
    ] as const) {
      process.once(signal, () => {
        for (const undo of cleanups.reverse()) undo();
        process.exit(status);
      });
    }
  }
  cleanups.push(cleanup);
}

/** A place for the files of a run. `SMOLVM_BENCH_DIR` puts it on another disk. */
export function benchFolder(): string {
  const folder = mkdtempSync(join(process.env["SMOLVM_BENCH_DIR"] ?? tmpdir(), "smolvm-bench-transfer-"));
  onInterrupt(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
