/**
 * 1 GiB over loopback from nginx, http and https: smolvm (verified and fsynced) beside `curl -o` (neither), `curl -o` made
 * durable, and the Python loop of 8 KiB pieces. Needs nginx, curl, openssl, python3 and GNU time.
 *
 *   node build/bench/transfer/loopback.js [rounds] [MiB]
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createHash } from "node:crypto";
import { closeSync, mkdirSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { selfSigned } from "../../test/fixtures/servers/certificate.js";
import { Nginx } from "./nginx.js";
import { benchFolder, compete, print, touchMemory, type Contestant } from "./table.js";

const MIB = 1024 * 1024;
const rounds = Number(process.argv[2] ?? 5);
const size = Number(process.argv[3] ?? 1024) * MIB;
const OURS = "smolvm, verified and fsynced";

const folder = benchFolder();
try {
  mkdirSync(join(folder, "www"));
  const digest = randomFile(join(folder, "www", "image"));
  const certificate = selfSigned();
  await using nginx = await Nginx.start({ folder, address: "127.0.0.1", tls: certificate });
  const ca = join(folder, "ca.pem");
  writeFileSync(ca, certificate.cert);
  for (const [scheme, port] of [
    ["http", nginx.port],
    ["https", nginx.tlsPort],
  ] as const) {
    const url = `${scheme}://127.0.0.1:${port}/image`;
    print(`${size / MIB} MiB over loopback, ${scheme}`, await compete(contestants(url, digest, ca), rounds), OURS);
  }
} finally {
  rmSync(folder, { recursive: true });
}

function contestants(url: string, digest: string, ca: string): Contestant[] {
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
  const trusting = ["env", `NODE_EXTRA_CA_CERTS=${ca}`, `BENCH_CA=${ca}`];
  return [
    { name: OURS, command: [...trusting, process.execPath, ours, url, digest, join(folder, "partial"), out] },
    { name: "curl -o", command: curl },
    { name: "curl -o; sync -d", command: ["sh", "-c", `${curl.join(" ")} && sync -d ${out}`] },
    { name: "Python, 8 KiB pieces, verified", command: [...trusting, "python3", peer, url, digest, out] },
  ].map((contestant) => ({ ...contestant, before, after }));
}

/** Fills a file with bytes that nothing compresses, and gives their digest. */
function randomFile(path: string): string {
  const hash = createHash("sha256");
  const fd = openSync(path, "w");
  for (let at = 0; at < size; at += 4 * MIB) {
    const block = randomBytes(Math.min(4 * MIB, size - at));
    hash.update(block);
    writeSync(fd, block);
  }
  closeSync(fd);
  return hash.digest("hex");
}
