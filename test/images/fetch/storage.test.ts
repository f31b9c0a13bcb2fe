import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { suite, test } from "node:test";
import { fileURLToPath } from "node:url";

import { HostError, SmolVMError } from "../../../src/errors.js";
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
    mkdirSync(disk);
    const request = { url: `${server.origin}/image`, digest, partial: `${disk}/p`, transport: "simple", lanes: 1 };
    const run = `${process.execPath} ${CHILD} '${JSON.stringify(request)}'`;
    // A file system of 4 MiB; it grows between the second run and the third.
    const script = [
      `mount -t tmpfs -o size=4m none ${disk}`,
      run,
      "kill -USR1 $PPID",
      `sleep 0.3; ${run}`,
      `mount -o remount,size=32m ${disk}`,
      run,
    ].join("; ");
    const unshare = process.getuid?.() === 0 ? ["-m"] : ["-r", "-m"];
    const becomeSilent = (): void => void (told = false);
    process.once("SIGUSR2", becomeSilent);
    const child = spawn("unshare", [...unshare, "sh", "-c", script.replace("USR1", "USR2")], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    child.stdout.on("data", (text: Buffer) => (said += text.toString()));
    await once(child, "close");
    process.removeListener("SIGUSR2", becomeSilent);
    const outcomes = said.split("\n").filter((line) => line !== "" && line !== "begun");
    assert.deepEqual(outcomes, ["IMAGE_NO_SPACE", "IMAGE_NO_SPACE", "done"]);
    assert.equal(server.requests[0]?.headers.get("range"), undefined);
    const resumed = /^bytes=(\d+)-$/.exec(server.requests.at(-1)?.headers.get("range") ?? "");
    assert.ok(Number(resumed?.[1]) > 2 * MIB, `the third run asked for ${resumed?.[0] ?? "everything"}`);
    assert.equal(index, 3);
  });

  test("a path that can't be a file is a HostError that names it", async () => {
    using folder = new Folder();
    await using server = await TestServer.start((_request, reply) => reply.file(sampleBytes(1000)));
    mkdirSync(folder.file("directory"));
    writeFileSync(folder.file("file"), "x");
    symlinkSync(folder.file("file"), folder.file("link"));
    for (const path of [folder.file("directory"), folder.file("link"), `${folder.file("file")}/below`]) {
      const promise = transferWith({ urls: [server.origin], digest: null, partial: path }, policyFor("fast"));
      await assert.rejects(promise, (error: unknown) => {
        assert.ok(error instanceof HostError, String(error));
        assert.ok(error.message.includes(path), error.message);
        return true;
      });
    }
    assert.equal(readFileSync(folder.file("file"), "utf8"), "x");
  });

  test("a side file that was made a link is not followed", async () => {
    using folder = new Folder();
    await using server = await TestServer.start((_request, reply) => reply.file(sampleBytes(1000)));
    writeFileSync(folder.file("precious"), "x");
    symlinkSync(folder.file("precious"), folder.file("p.journal"));
    const request = { urls: [server.origin], digest: null, partial: folder.file("p") };
    await assert.rejects(transferWith(request, policyFor("fast")), SmolVMError);
    assert.equal(readFileSync(folder.file("precious"), "utf8"), "x");
  });
});
