/**
 * A 2 GiB image with 10 % data in runs of 4 KiB to 1 MiB, over loopback: time and disk that it takes with holes, beside the
 * same bytes written densely.
 *
 *   node build/bench/transfer/sparse.js [rounds]
 */
import { createHash, randomBytes, randomInt } from "node:crypto";
import { closeSync, ftruncateSync, mkdirSync, openSync, readSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Nginx } from "./nginx.js";
import { benchFolder, compete, print, touchMemory, type Contestant } from "./table.js";

const MIB = 1024 * 1024;
const rounds = Number(process.argv[2] ?? 5);
const SIZE = 2048 * MIB;
const OURS = "smolvm, with holes, verified and fsynced";

const folder = benchFolder();
try {
  mkdirSync(join(folder, "www"));
  const image = join(folder, "www", "image");
  const data = sparseFile(image);
  const digest = digestOf(image);
  await using nginx = await Nginx.start({ folder, address: "127.0.0.1" });
  const url = `http://127.0.0.1:${nginx.port}/image`;
  const [out, partial] = [join(folder, "out"), join(folder, "partial")];
  let allocated = 0;
  const before = (): void => touchMemory(SIZE);
  const after = (): void => {
    const { blocks, size } = statSync(out);
    if (size !== SIZE) throw new Error("the file has not its size");
    allocated = blocks * 512;
    rmSync(out);
  };
  const ours = fileURLToPath(new URL("./ours.js", import.meta.url));
  const contestants: Contestant[] = [
    {
      name: OURS,
      command: [process.execPath, ours, url, digest, partial, out],
      before,
      after: () => {
        after();
        console.log(`disk: ${(allocated / data).toFixed(3)} × the data`);
      },
    },
    { name: "curl -o", command: ["curl", "-sf", "-o", out, url], before, after },
    { name: "curl -o; sync -d", command: ["sh", "-c", `curl -sf -o ${out} ${url} && sync -d ${out}`], before, after },
  ];
  print("2 GiB with 10 % data over loopback", await compete(contestants, rounds), OURS);
} finally {
  rmSync(folder, { recursive: true });
}

/** Gives the number of bytes of data. */
function sparseFile(path: string): number {
  const fd = openSync(path, "w");
  ftruncateSync(fd, SIZE);
  let data = 0;
  for (let at = 0; at < SIZE;) {
    const length = 4096 * randomInt(1, 257);
    writeSync(fd, randomBytes(length), 0, length, at);
    data += length;
    at += 10 * length;
  }
  ftruncateSync(fd, SIZE);
  closeSync(fd);
  return data;
}

function digestOf(path: string): string {
  const hash = createHash("sha256");
  const fd = openSync(path, "r");
  const buffer = Buffer.alloc(MIB);
  for (let length = 1; length > 0;) {
    length = readSync(fd, buffer);
    hash.update(buffer.subarray(0, length));
  }
  closeSync(fd);
  return hash.digest("hex");
}
