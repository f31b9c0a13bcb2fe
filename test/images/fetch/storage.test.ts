import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, linkSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { suite, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { HostError } from "../../../src/errors.js";
import { peekPartial } from "../../../src/images/fetch/journal.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { TestServer } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256 } from "./setting.js";

const MIB = 1024 * 1024;
const CHILD = fileURLToPath(new URL("./child.js", import.meta.url));

void suite("the disk below a transfer", () => {
  test("a disk that fills up is told, and what was fetched is gone on with once there is space", async () => {
    using folder = new Folder();
    const bytes = sampleBytes(8 * MIB, 3);
    let [index, told] = [0, true];
    await using server = await TestServer.start(async (request, reply) => {
      index++;
      if (request.headers.has("range") || told) return reply.file(bytes);
      // Without a length nothing can be known before.
      await reply.head(200, { "Transfer-Encoding": "chunked", ETag: '"v1"' });
      for (let at = 0; at < bytes.length; at += 0x10000) {
        await reply.text("10000\r\n");
        await reply.body(bytes.subarray(at, at + 0x10000));
        await reply.text("\r\n");
      }
      await reply.text("0\r\n\r\n");
    });
    const [disk, digest] = [folder.file("disk"), sha256(bytes)];
    const run = fetching({ url: `${server.origin}/image`, digest, partial: `${disk}/p` });
    const becomeSilent = (): void => void (told = false);
    process.once("SIGUSR2", becomeSilent);
    // It grows between the second run and the third.
    const outcomes = await onDiskOf4MiB(disk, [
      run,
      "kill -USR2 $PPID",
      `sleep 0.3; ${run}`,
      `mount -o remount,size=32m ${disk}`,
      run,
    ]);
    process.removeListener("SIGUSR2", becomeSilent);
    assert.deepEqual(outcomes, ["IMAGE_NO_SPACE", "IMAGE_NO_SPACE", "done"]);
    assert.equal(server.requests[0]?.headers.get("range"), undefined);
    const resumed = /^bytes=(\d+)-$/.exec(server.requests.at(-1)?.headers.get("range") ?? "");
    assert.ok(Number(resumed?.[1]) > 2 * MIB, `the third run asked for ${resumed?.[0] ?? "everything"}`);
    assert.equal(index, 3);
  });

  test("a file system image larger than the disk is fetched if what is used of it fits, and refused early if not", async () => {
    for (const [usedMiB, outcome] of [
      [1, "done"],
      [7, "IMAGE_NO_SPACE"],
    ] as const) {
      using folder = new Folder();
      const bytes = Buffer.concat([sampleBytes(MIB, 3), Buffer.alloc(11 * MIB)]);
      // The superblock of an ext file system of 12 MiB in blocks of 4 KiB.
      bytes.fill(0, 1024, 2048);
      bytes.writeUInt32LE(3072, 1024 + 0x04);
      bytes.writeUInt32LE(3072 - usedMiB * 256, 1024 + 0x0c);
      bytes.writeUInt32LE(2, 1024 + 0x18);
      bytes.writeUInt16LE(0xef53, 1024 + 0x38);
      await using server = await TestServer.start((_request, reply) => reply.file(bytes, { rate: 32 * MIB }));
      const disk = folder.file("disk");
      const run = fetching({ url: `${server.origin}/image`, digest: sha256(bytes), partial: `${disk}/p` });
      assert.deepEqual(await onDiskOf4MiB(disk, [run]), [outcome]);
      if (outcome !== "done") assert.ok(server.sent < 4 * MIB, `${server.sent} bytes were sent`);
    }
  });

  test("a disk without room for what is unpacked is told at once: the rest is not fetched first", async () => {
    using folder = new Folder();
    const bytes = gzipSync(Buffer.concat([Buffer.alloc(12 * MIB, "some text "), randomBytes(2 * MIB)]));
    await using server = await TestServer.start((_request, reply) => reply.file(bytes, { rate: 2 * MIB }));
    const disk = folder.file("disk");
    const run = fetching({ url: `${server.origin}/image.gz`, digest: sha256(bytes), partial: `${disk}/p` });
    assert.deepEqual(await onDiskOf4MiB(disk, [run]), ["IMAGE_NO_SPACE"]);
    assert.ok(server.sent < 1.5 * MIB, `${server.sent} of ${bytes.length} bytes were sent`);
  });

  test("a path that can't be a file is a HostError that names it", async () => {
    using folder = new Folder();
    await using server = await TestServer.start((_request, reply) => reply.file(sampleBytes(1000)));
    writeFileSync(folder.file("file"), "x");
    const partial = `${folder.file("file")}/below`;
    const promise = transferWith({ urls: [server.origin], digest: null, partial }, policyFor("fast"));
    await assert.rejects(promise, (error: unknown) => {
      assert.ok(error instanceof HostError, String(error));
      assert.ok(error.message.includes(partial), error.message);
      return true;
    });
    assert.equal(readFileSync(folder.file("file"), "utf8"), "x");
  });

  test("a link or a pipe in a file's place is taken away and never followed, nor is another name of a file", async () => {
    const bytes = sampleBytes(1000);
    await using server = await TestServer.start((_request, reply) => reply.file(bytes));
    for (const name of ["p", "p.journal"]) {
      for (const put of [symlinkSync, linkSync, (_from: string, to: string) => execFileSync("mkfifo", [to])]) {
        using folder = new Folder();
        writeFileSync(folder.file("precious"), "x");
        put(folder.file("precious"), folder.file(name));
        const request = { urls: [server.origin], digest: null, partial: folder.file("p") };
        assert.equal(peekPartial(request.partial), null);
        const result = await transferWith(request, policyFor("fast"));
        assert.ok(readFileSync(result.path).equals(bytes));
        assert.equal(readFileSync(folder.file("precious"), "utf8"), "x");
      }
    }
  });

  test("a file that was made unwritable before it could be published is gone on with", async () => {
    using folder = new Folder();
    const bytes = sampleBytes(100_000);
    await using server = await TestServer.start((_request, reply) => reply.file(bytes));
    const request = { urls: [server.origin], digest: null, partial: folder.file("p") };
    await transferWith(request, policyFor("fast"));
    chmodSync(request.partial, 0o444);
    const result = await transferWith(request, policyFor("fast"));
    assert.equal(result.fetchedBytes, 0);
    assert.equal(statSync(request.partial).mode & 0o777, 0o644);
  });
});

/** The command that runs one transfer in a process of its own. */
function fetching(request: { readonly url: string; readonly digest: string; readonly partial: string }): string {
  return `${process.execPath} ${CHILD} '${JSON.stringify({ ...request, transport: "simple", lanes: 1 })}'`;
}

/** Runs commands where a small file system is mounted at `disk`, and gives what they print when they end. */
async function onDiskOf4MiB(disk: string, commands: readonly string[]): Promise<string[]> {
  mkdirSync(disk);
  const script = [`mount -t tmpfs -o size=4m none ${disk}`, ...commands].join("; ");
  const unshare = process.getuid?.() === 0 ? ["-m"] : ["-r", "-m"];
  const child = spawn("unshare", [...unshare, "sh", "-c", script], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.on("data", (text: Buffer) => (said += text.toString()));
  await once(child, "close");
  return said.split("\n").filter((line) => line !== "" && line !== "begun");
}
