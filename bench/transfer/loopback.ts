/**
 * 1 GiB over loopback from nginx, http and https: smolvm, verified, beside `curl -o`, which verifies nothing, and the Python
 * loop of 8 KiB pieces; and smolvm as it is, verified and fsynced, beside `curl -o` made durable. Needs nginx, curl,
 * openssl and python3.
 *
 *   node build/bench/transfer/loopback.js [rounds] [MiB]
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { selfSigned } from "../../test/fixtures/servers/certificate.js";
import { MIB, writeDense } from "../image-files.js";
import { interleave, median, printFindings, printRuns, roundsOr, temporaryFolder, type Contender } from "../measure.js";
import { Nginx } from "./nginx.js";
import { touchMemory } from "./memory.js";

const rounds = roundsOr(5);
const size = Number(process.argv[3] ?? 1024) * MIB;
const [OURS, DURABLE] = ["smolvm, verified", "smolvm, verified and fsynced"] as const;
const [CURL, SYNCED, PYTHON] = ["curl -o", "curl -o; sync -d", "Python, 8 KiB pieces, verified"] as const;
const MOST = { http: 1.0, https: 1.25 } as const;
/** With TLS most of the time is the cipher's, in every one of them: no goal. */
const QUICKER = { http: { least: 2.8 }, https: {} } as const;

using temporary = temporaryFolder();
const folder = temporary.path;
mkdirSync(join(folder, "www"));
const digest = writeDense(join(folder, "www", "image"), size);
const certificate = selfSigned();
await using nginx = await Nginx.start({ folder, address: "127.0.0.1", tls: certificate });
const ca = join(folder, "ca.pem");
writeFileSync(ca, certificate.cert);
for (const [scheme, port] of [
  ["http", nginx.port],
  ["https", nginx.tlsPort],
] as const) {
  const url = `${scheme}://127.0.0.1:${port}/image`;
  const runs = await interleave(contenders(url, digest, ca), rounds);
  const wall = (name: string): number => median((runs.get(name) ?? []).map((run) => run.wall));
  const peak = Math.max(...(runs.get(DURABLE) ?? []).map((run) => run.peakMiB));
  printFindings(`${size / MIB} MiB over loopback, ${scheme}, ${rounds} rounds`, [
    { what: `verified, to ${CURL}, which is not`, measured: wall(OURS) / wall(CURL), unit: " ×", most: MOST[scheme] },
    { what: `verified and durable, to ${SYNCED}`, measured: wall(DURABLE) / wall(SYNCED), unit: " ×", most: 1.0 },
    {
      what: `verified, how much faster than ${PYTHON}`,
      measured: wall(PYTHON) / wall(OURS),
      unit: " ×",
      ...QUICKER[scheme],
    },
    { what: "peak memory", measured: peak, unit: " MiB", most: 85 },
  ]);
  printRuns("All of them", runs, CURL);
}

function contenders(url: string, digest: string, ca: string): Contender[] {
  const out = join(folder, "out");
  const before = (): void => {
    rmSync(out, { force: true });
    execFileSync("sync", ["-f", folder]);
    touchMemory(size * 1.5);
  };
  const after = (): void => {
    if (statSync(out).size !== size) throw new Error("the file has not its size");
    rmSync(out);
  };
  const ours = fileURLToPath(new URL("./ours.js", import.meta.url));
  const peer = fileURLToPath(new URL("../../../bench/transfer/peer.py", import.meta.url));
  const curl = ["curl", "-sf", "--cacert", ca, "-o", out, url];
  const env = { BENCH_CA: ca };
  const own = (durable: boolean): string[] => {
    return [process.execPath, ours, url, digest, join(folder, "partial"), out, durable ? "durable" : "quick"];
  };
  return [
    { name: OURS, command: own(false), env },
    { name: CURL, command: curl },
    { name: DURABLE, command: own(true), env },
    { name: SYNCED, command: ["sh", "-c", `${curl.join(" ")} && sync -d ${out}`] },
    { name: PYTHON, command: ["python3", peer, url, digest, out], env },
  ].map((contender) => ({ ...contender, before, after }));
}
