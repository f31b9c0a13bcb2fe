import { spawn } from "node:child_process";

/** One way of doing the work that a benchmark compares. */
export interface Contender {
  readonly name: string;
  readonly command: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Puts things back before each run; its time is not counted. */
  readonly before?: () => Promise<void> | void;
}

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
  const child = spawn("python3", ["-c", ACCOUNT, ...contender.command], {
    stdio: ["ignore", "ignore", "inherit", "pipe"],
    env: { ...process.env, ...contender.env },
  });
  let report = "";
  child.stdio[3]?.on("data", (chunk: Buffer) => (report += chunk.toString()));
  await new Promise((resolve, reject) => child.once("close", resolve).once("error", reject));
  const [status = 1, wall = 0, cpu = 0, peakMiB = 0] = report.split(" ").map(Number);
  if (status !== 0) throw new Error(`${contender.name}: exit status ${status}`);
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
