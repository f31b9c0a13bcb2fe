import assert from "node:assert/strict";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { suite, test } from "node:test";
import { gzipSync } from "node:zlib";

import { pause, TestServer, type Handler } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256 } from "./setting.js";

const MIB = 1024 * 1024;
/** 100 ms are promised; a machine that does much else at the same time gets more. The disk alone would take for ever. */
const ABORT_MS = 20_000;

/** What the disk is asked for takes its time, as on one that others use too: for files whose path is like this. */
const real = { fsync: fs.fsync, fdatasync: fs.fdatasync };
let slow: RegExp | null = null;
let syncing = 0;
/** Ends what it takes its time for. */
let letGo = (): void => undefined;
let busy = Promise.resolve();
for (const name of ["fsync", "fdatasync"] as const) {
  const patched = (fd: number, callback: fs.NoParamCallback): void => {
    if (slow?.test(fs.readlinkSync(`/proc/self/fd/${fd}`)) !== true) {
      real[name](fd, callback);
      return;
    }
    syncing++;
    const done = (error: NodeJS.ErrnoException | null): void => {
      syncing--;
      callback(error);
    };
    void busy.then(() => real[name](fd, done));
  };
  Object.assign(fs, { [name]: patched });
}
syncBuiltinESMExports();
// Only now, so that it finds the slow ones.
const { transferWith } = await import("../../../src/images/fetch/transfer.js");
const policy = policyFor("fast", { gapTimeoutMs: 20_000 });

/** A transfer that is aborted while the disk is busy for it. How long the answer took is part of what is given back. */
async function abortedWhileSyncing(slowFile: RegExp, bytes: Buffer, path: string, handler?: Handler) {
  await using server = await TestServer.start(handler ?? ((_request, reply) => reply.file(bytes)));
  const folder = new Folder();
  const stop = new AbortController();
  const request = { urls: [server.origin + path], digest: sha256(bytes), partial: folder.file("p") };
  slow = slowFile;
  busy = new Promise((resolve) => (letGo = resolve));
  const promise = transferWith({ ...request, signal: stop.signal }, policy);
  promise.catch(() => undefined); // awaited below
  const deadline = performance.now() + 30_000;
  while (syncing === 0 && performance.now() < deadline) await pause(5);
  assert.ok(syncing > 0, "the disk was never asked");
  await pause(100);
  const asked = performance.now();
  stop.abort();
  const late = setTimeout(() => letGo(), 1.5 * ABORT_MS);
  await assert.rejects(promise, { name: "AbortError" });
  clearTimeout(late);
  slow = null;
  return { folder, request, tookMs: performance.now() - asked };
}

void suite("a disk that takes its time", () => {
  test("an abort does not wait for data that goes to the disk behind the download, nor does the next call", async () => {
    // Mostly holes, so that it is here quickly; it is synced behind all the same.
    const bytes = Buffer.concat([sampleBytes(MIB), Buffer.alloc(40 * MIB), sampleBytes(MIB, 2)]);
    const sent = 36 * MIB;
    const { folder, request, tookMs } = await abortedWhileSyncing(/\/p$/, bytes, "/image", async (_request, reply) => {
      await reply.head(200, { "Content-Length": bytes.length, ETag: '"v1"' });
      await reply.body(bytes.subarray(0, sent));
      await new Promise((resolve) => reply.socket.once("close", resolve));
    });
    using _ = folder;
    assert.ok(tookMs < ABORT_MS, `it took ${tookMs} ms`);
    assert.ok(syncing > 0, "the disk is busy still");
    // Another transfer of the same file, while the first one's descriptor still waits for the disk.
    await using good = await TestServer.start((_request, reply) => reply.file(bytes));
    const result = await transferWith({ ...request, urls: [`${good.origin}/image`] }, policy);
    assert.equal(result.contentDigest, request.digest);
    assert.ok(result.fetchedBytes <= bytes.length - sent + MIB, `${result.fetchedBytes} bytes fetched again`);
    letGo();
    assert.deepEqual(await descriptorsBelow(folder.path), []);
  });

  test("an abort while the unpacked file goes to the disk closes that file once, and no other", async () => {
    const bytes = gzipSync(sampleBytes(300_000));
    const { folder, tookMs } = await abortedWhileSyncing(/unpacked$/, bytes, "/image.gz");
    using _ = folder;
    assert.ok(tookMs < ABORT_MS, `it took ${tookMs} ms`);
    const own = Array.from({ length: 24 }, () => fs.openSync(import.meta.filename, "r"));
    letGo();
    const deadline = performance.now() + 30_000;
    while (syncing > 0 && performance.now() < deadline) await pause(20);
    await pause(100);
    for (const fd of own) assert.ok(fs.fstatSync(fd).size > 0); // EBADF if somebody else has closed it
    for (const fd of own) fs.closeSync(fd);
    assert.deepEqual(await descriptorsBelow(folder.path), []);
    assert.ok(!folder.names().some((name) => name.endsWith(".unpacked")), folder.names().join());
  });
});

/** The files below a folder that this process still has open, once the disk is done with all it was asked for. */
async function descriptorsBelow(folder: string): Promise<string[]> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const open = fs.readdirSync("/proc/self/fd").flatMap((fd) => {
      try {
        return [fs.readlinkSync(`/proc/self/fd/${fd}`)];
      } catch {
        return []; // the one of the listing itself
      }
    });
    const left = open.filter((path) => path.startsWith(folder));
    if ((left.length === 0 && syncing === 0) || performance.now() > deadline) return left;
    await pause(20);
  }
}
