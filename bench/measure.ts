import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { packageRoot } from "../src/host/package.js";

/** One way of doing the work that a benchmark compares. */
export interface Contender {
  readonly name: string;
  readonly command: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Puts things back before each run; its time is not counted. */
  readonly before?: () => Promise<void> | void;
  /** Throws if the run has not done its work; its time is not counted. */
  readonly after?: () => Promise<void> | void;
}

/** The number of rounds that the command line asks for. */
export function roundsOr(usual: number): number {
  return Math.max(1, Number(process.argv[2] ?? usual));
}

/*
 * Programs that are measured start without this variable: Node 20 reads the certificates that it names at every start, and
 * a start of 28 ms becomes one of 60. It is set on some hosts and not on others.
 */
delete process.env["NODE_EXTRA_CA_CERTS"];

export interface Run {
  /** Wall clock from start to exit, in seconds. */
  readonly wall: number;
  /** User and system time of the process and its children, in seconds. */
  readonly cpu: number;
  /** Resident memory of the largest process, in MiB. */
  readonly peakMiB: number;
}

/* wait4's own accounting: Node has no way to ask for a finished child's. ru_maxrss is in KiB on Linux. */
const ACCOUNT = `
import os, sys, time
start = time.monotonic()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
wall = time.monotonic() - start
os.write(3, ("%d %f %f %f" % (os.waitstatus_to_exitcode(status), wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)).encode())
`;

async function runOnce(contender: Contender): Promise<Run> {
  await contender.before?.();
  await quietMoment();
  const child = spawn("python3", ["-c", ACCOUNT, ...contender.command], {
    stdio: ["ignore", "ignore", "inherit", "pipe"],
    env: { ...process.env, ...contender.env },
  });
  let report = "";
  child.stdio[3]?.on("data", (chunk: Buffer) => (report += chunk.toString()));
  await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  const [status = 1, wall = 0, cpu = 0, peakMiB = 0] = report.split(" ").map(Number);
  if (status !== 0) throw new Error(`${contender.name}: exit status ${status}`);
  await contender.after?.();
  return { wall, cpu, peakMiB };
}

/** Runs all contenders in turn, round by round, so that a drift of the machine's speed meets them alike. */
export async function interleave(contenders: readonly Contender[], rounds: number): Promise<Map<string, Run[]>> {
  const runs = new Map<string, Run[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    // Turning the order round by round keeps one contender from always following the same other one.
    const turned = round % 2 === 0 ? contenders : [...contenders].reverse();
    for (const contender of turned) runs.get(contender.name)?.push(await runOnce(contender));
  }
  return runs;
}

/** Work inside this process; gives its own measurement, in whatever unit the caller prints. */
export interface Task {
  readonly name: string;
  readonly run: () => Promise<number> | number;
}

/** The same turns for work that measures itself. */
export async function takeTurns(tasks: readonly Task[], rounds: number): Promise<Map<string, number[]>> {
  const results = new Map<string, number[]>(tasks.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    const turned = round % 2 === 0 ? tasks : [...tasks].reverse();
    for (const { name, run } of turned) {
      await quietMoment();
      results.get(name)?.push(await run());
    }
  }
  return results;
}

/** How long all the waiting of one benchmark for a quiet machine may take together. */
const PATIENCE_MS = Number(process.env["SMOLVM_BENCH_PATIENCE"] ?? 120) * 1000;
const patience = { left: PATIENCE_MS, begun: 0, busy: 0 };

/** Waits until other programs leave the processors alone, within the patience that is left. */
export async function quietMoment(): Promise<void> {
  patience.begun++;
  for (;;) {
    const began = performance.now();
    if (await isQuiet()) return;
    patience.left -= performance.now() - began;
    if (patience.left > 0) continue;
    patience.busy++;
    return;
  }
}

async function isQuiet(): Promise<boolean> {
  const [before, idleBefore] = processorTimes();
  await new Promise((resolve) => setTimeout(resolve, 250));
  const [after, idleAfter] = processorTimes();
  return (idleAfter - idleBefore) / (after - before) > 0.9;
}

function processorTimes(): [all: number, idle: number] {
  const times = cpus().map(({ times: { user, nice, sys, idle, irq } }) => ({
    all: user + nice + sys + idle + irq,
    idle,
  }));
  return [times.reduce((sum, { all }) => sum + all, 0), times.reduce((sum, { idle }) => sum + idle, 0)];
}

/** What a reader has to know to judge the figures: how many of them were taken while other programs were busy. */
export function conditions(): string {
  const { begun, busy } = patience;
  const load = loadavg()[0] ?? 0;
  return `${cpus().length} processors, Node ${process.versions.node}; ${busy} of ${begun} measurements began on a busy machine; load average at the end ${load.toFixed(1)}.`;
}

/** Runs a program of bench/children in a process of its own and gives what it printed, one JSON value. */
export async function runChild<T>(name: string, args: readonly string[], flags: readonly string[] = []): Promise<T> {
  const program = fileURLToPath(new URL(`./children/${name}.js`, import.meta.url));
  const child = spawn(process.execPath, [...flags, program, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  const [status] = (await once(child, "close")) as [number | null];
  if (status !== 0) throw new Error(`${name}: exit status ${String(status)}`);
  return JSON.parse(printed) as T;
}

/** What the shell starts for "smolvm": the program that the package ships. */
export function smolvmCommand(): readonly string[] {
  const manifest = JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")) as { bin: { smolvm: string } };
  const program = join(packageRoot(), manifest.bin.smolvm);
  if (!existsSync(program)) throw new Error(`${program} is not there: run npm run build first`);
  return [process.execPath, program];
}

/** A folder that is gone at the end of the block, and when the program is interrupted before. `SMOLVM_BENCH_DIR` puts it on another disk. */
export function temporaryFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(process.env["SMOLVM_BENCH_DIR"] ?? tmpdir(), "smolvm-bench-"));
  const remove = (): void => rmSync(path, { recursive: true, force: true });
  process.once("exit", remove);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
  return {
    path,
    [Symbol.dispose]() {
      process.off("exit", remove);
      remove();
    },
  };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const high = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? Number.NaN) + high) / 2;
}

/** Prints rows as a Markdown table, first column to the left, the others to the right. */
export function printTable(title: string, columns: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = columns.map((column, i) => Math.max(column.length, ...rows.map((row) => (row[i] ?? "").length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(" | ")} |`;
  const rule = widths.map((width, i) => (i === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`));
  console.log(`\n${title}\n\n${[columns, rule, ...rows].map(line).join("\n")}\n`);
}

/** The median and the range of measurements that have one unit. */
export function printMeasured(title: string, unit: string, results: ReadonlyMap<string, readonly number[]>): void {
  const rows = [...results].map(([name, all]) => [
    name,
    readable(median(all)),
    `${readable(Math.min(...all))}–${readable(Math.max(...all))}`,
    String(all.length),
  ]);
  printTable(title, ["", `${unit} (median)`, "min–max", "runs"], rows);
}

/** The usual table: each contender's median wall time with its range, the ratio to the one named, CPU time and peak memory. */
export function printRuns(title: string, runs: ReadonlyMap<string, readonly Run[]>, against: string): void {
  const base = median((runs.get(against) ?? []).map((run) => run.wall));
  const rows = [...runs].map(([name, all]) => {
    const walls = all.map((run) => run.wall);
    return [
      name,
      median(walls).toFixed(3),
      `${Math.min(...walls).toFixed(3)}–${Math.max(...walls).toFixed(3)}`,
      (median(walls) / base).toFixed(2),
      median(all.map((run) => run.cpu)).toFixed(2),
      Math.max(...all.map((run) => run.peakMiB)).toFixed(0),
      String(all.length),
    ];
  });
  printTable(title, ["", "wall s (median)", "min–max", `ratio to ${against}`, "cpu s", "peak MiB", "runs"], rows);
}

/** A figure beside the goal that it has to meet. */
export interface Finding {
  readonly what: string;
  readonly measured: number;
  /** What follows the figure: " ms", " ×", " MiB". */
  readonly unit: string;
  /** The goal: at most this, or at least this. None: the figure only explains another one. */
  readonly most?: number;
  readonly least?: number;
}

export function printFindings(title: string, findings: readonly Finding[]): void {
  const rows = findings.map(({ what, measured, unit, most, least }) => {
    const goal = most !== undefined ? `≤ ${most}${unit}` : least !== undefined ? `≥ ${least}${unit}` : "";
    const met = measured <= (most ?? Infinity) && measured >= (least ?? -Infinity);
    return [what, `${readable(measured)}${unit}`, goal, goal === "" ? "" : met ? "yes" : "no"];
  });
  printTable(`${title}. ${conditions()}`, ["", "measured", "goal", "met"], rows);
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Three digits that count, and never an exponent. */
function readable(value: number): string {
  const digits = value === 0 ? 0 : Math.max(0, Math.min(3, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(digits);
}
