/**
 * Over a bad line: 200 Mbit/s, 40 ms round trip, 0.1 % of the packets lost in each direction. From nginx with CUBIC, where one
 * connection gets a fraction of the line (64 MiB), and with BBR, where one fills it (256 MiB); beside `aria2c -x8` (unverified) and `curl`. The line is link.c between network namespaces, so this needs root; also
 * nginx, aria2c, curl, python3, cc and ip.
 *
 *   node build/bench/transfer/line.js [rounds]
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { interleave, median, printFindings, printRuns, roundsOr, temporaryFolder, type Contender } from "../measure.js";
import { Nginx } from "./nginx.js";

const MIB = 1024 * 1024;
const rounds = roundsOr(5);
const OURS = "smolvm, verified and fsynced";
const [ARIA, CURL] = ["aria2c -x8", "curl"] as const;
const [SERVER, LINE, CLIENT] = [`smol-s-${process.pid}`, `smol-l-${process.pid}`, `smol-c-${process.pid}`];
const ADDRESS = "10.99.0.1";

class Line {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static async start(program: string, parameters: readonly string[]): Promise<Line> {
    const child = spawn("ip", ["netns", "exec", LINE, program, "line0", "line1", ...parameters], { stdio: "inherit" });
    process.once("exit", () => child.kill("SIGKILL"));
    await once(child, "spawn");
    return new Line(child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
  }
}

using temporary = temporaryFolder();
const folder = temporary.path;
const program = join(folder, "link");
execFileSync("cc", ["-O2", "-o", program, fileURLToPath(new URL("../../../bench/transfer/link.c", import.meta.url))]);
mkdirSync(join(folder, "www"));
using _namespaces = makeNamespaces(program);
for (const [control, size, peer, most] of [
  ["cubic", 64 * MIB, ARIA, 1.05],
  ["bbr", 256 * MIB, CURL, 1.0],
] as const) {
  const bytes = randomBytes(size);
  writeFileSync(join(folder, "www", "image"), bytes);
  const digest = createHash("sha256").update(bytes).digest("hex");
  const route = ["10.99.0.0/24", "dev", "eth0", "src", ADDRESS, "congctl", control];
  execFileSync("ip", ["-n", SERVER, "route", "replace", ...route]);
  await using _line = await Line.start(program, ["200", "20", "0.1", "2048"]);
  await using nginx = await Nginx.start({ folder, address: ADDRESS, namespace: SERVER, port: 8080 });
  await new Promise((resolve) => setTimeout(resolve, 500));
  const url = `http://${ADDRESS}:${nginx.port}/image`;
  const runs = await interleave(contenders(url, digest, size), rounds);
  const wall = (name: string): number => median((runs.get(name) ?? []).map((run) => run.wall));
  printFindings(
    `${size / MIB} MiB over 200 Mbit/s, 40 ms, 0.1 % loss each way, server with ${control}, ${rounds} rounds`,
    [{ what: `${OURS}, to ${peer}`, measured: wall(OURS) / wall(peer), unit: " ×", most }],
  );
  printRuns("All of them", runs, peer);
}

function contenders(url: string, digest: string, size: number): Contender[] {
  const out = join(folder, "out");
  const ours = fileURLToPath(new URL("./ours.js", import.meta.url));
  const inside = ["ip", "netns", "exec", CLIENT];
  const ranges = ["-q", "-x8", "-s8", "-k1M", "--file-allocation=none", "--allow-overwrite=true"];
  const after = (): void => {
    if (statSync(out).size !== size) throw new Error("the file has not its size");
    rmSync(out);
  };
  return [
    { name: OURS, command: [process.execPath, ours, url, digest, join(folder, "partial"), out, "durable"] },
    { name: ARIA, command: ["aria2c", ...ranges, "-d", folder, "-o", "out", url] },
    { name: CURL, command: ["curl", "-sf", "-o", out, url] },
  ].map(({ name, command }) => ({ name, command: [...inside, ...command], after }));
}

function within(namespace: string, ...command: string[]): void {
  execFileSync("ip", ["netns", "exec", namespace, ...command], { stdio: ["ignore", "ignore", "inherit"] });
}

/** A server's, a line's and a client's network, joined by two cables. */
function makeNamespaces(program: string): Disposable {
  const remove = (): void => {
    for (const name of [SERVER, LINE, CLIENT]) {
      try {
        execFileSync("ip", ["netns", "del", name], { stdio: "ignore" });
      } catch {
        // it was never made
      }
    }
  };
  process.once("exit", remove);
  try {
    for (const name of [SERVER, LINE, CLIENT]) execFileSync("ip", ["netns", "add", name]);
    for (const [name, end, address] of [
      [SERVER, "line0", ADDRESS],
      [CLIENT, "line1", "10.99.0.2"],
    ] as const) {
      execFileSync("ip", ["-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", end, "netns", LINE]);
      execFileSync("ip", ["-n", name, "addr", "add", `${address}/24`, "dev", "eth0"]);
      for (const device of ["lo", "eth0"]) execFileSync("ip", ["-n", name, "link", "set", device, "up"]);
      execFileSync("ip", ["-n", LINE, "link", "set", end, "up"]);
      within(name, program, "plain", "eth0");
      within(LINE, program, "plain", end);
    }
  } catch (error) {
    remove();
    throw error;
  }
  return { [Symbol.dispose]: remove };
}
