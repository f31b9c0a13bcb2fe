import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { suite, test } from "node:test";

import fc from "fast-check";

import { discardPartial, transferWith } from "../../../src/images/fetch/transfer.js";
import { TestServer, type Handler } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256, TRANSPORTS } from "./setting.js";

const MIB = 1024 * 1024;
const SIZE = 3 * MIB + 12_345;
const BYTES = sampleBytes(SIZE, 5);
const DIGEST = sha256(BYTES);

for (const transport of TRANSPORTS) {
  const policy = policyFor(transport);

  void suite(`going on with what is here, over the ${transport} transport`, () => {
    test("interrupted at any bytes, by whatever, every byte is fetched once and is right", async (t) => {
      let interruptions = 0;
      const cut = fc.record({ at: fc.nat(SIZE), reset: fc.boolean() });
      const property = fc.asyncProperty(fc.array(cut, { maxLength: 4 }), fc.boolean(), async (cuts, pinned) => {
        using folder = new Folder();
        // Each answer breaks after its number of bytes of the whole file, if it comes so far.
        const handler: Handler = async (request, reply) => {
          const { at = Infinity, reset = false } = cuts[request.index] ?? {};
          const start = Number(/\d+/.exec(request.headers.get("range") ?? "0")?.[0] ?? 0);
          await reply.file(BYTES, at < SIZE ? { cutAfter: Math.max(0, at - start), reset } : {});
        };
        await using server = await TestServer.start(handler);
        const urls = [`${server.origin}/image`];
        const request = { urls, digest: pinned ? DIGEST : null, partial: folder.file("p") };
        const result = await transferWith(request, policy);
        assert.equal(result.contentDigest, DIGEST);
        assert.ok(readFileSync(result.path).equals(BYTES));
        if (cuts.every((one) => !one.reset)) assert.equal(result.fetchedBytes, SIZE);
        assert.ok(result.fetchedBytes <= SIZE + MIB);
        interruptions += server.requests.length - 1;
      });
      await fc.assert(property, { numRuns: 40 });
      t.diagnostic(`${interruptions} interruptions`);
    });

    test("aborted at any byte, the next call goes on where this one stopped", async (t) => {
      let aborts = 0;
      const property = fc.asyncProperty(fc.nat(SIZE - 1), async (at) => {
        using folder = new Folder();
        const stop = new AbortController();
        const handler: Handler = async (request, reply) => {
          if (request.index > 0) return reply.file(BYTES);
          await reply.head(200, { "Content-Length": SIZE, ETag: '"v1"' });
          await reply.body(BYTES.subarray(0, at));
          await new Promise((resolve) => reply.socket.once("close", resolve));
        };
        await using server = await TestServer.start(handler);
        const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
        const began = transferWith({ ...request, signal: stop.signal }, { ...policy, gapTimeoutMs: 20_000 });
        began.catch(() => undefined); // awaited below
        while (server.sent < at || server.requests.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
        // So that the last bytes cross the socket, and this same thread reads them.
        for (let turn = 0; turn < 8; turn++) await new Promise((resolve) => setTimeout(resolve, 5));
        const reason = new Error("the user is tired of it");
        const asked = performance.now();
        stop.abort(reason);
        await assert.rejects(began, (error) => error === reason);
        assert.ok(performance.now() - asked < 5_000, `abort took ${performance.now() - asked} ms`);
        const result = await transferWith(request, policy);
        assert.equal(result.contentDigest, DIGEST);
        assert.ok(result.fetchedBytes <= SIZE - at + MIB, `${result.fetchedBytes} fetched after ${at} of ${SIZE}`);
        aborts++;
      });
      await fc.assert(property, { numRuns: 25 });
      t.diagnostic(`${aborts} aborted transfers`);
    });

    test("a full-size leftover is verified, not fetched again", async () => {
      using folder = new Folder();
      await using server = await TestServer.start((_request, reply) => reply.file(BYTES));
      const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
      await transferWith(request, policy);
      const result = await transferWith(request, policy);
      assert.equal(result.fetchedBytes, 0);
      assert.equal(server.requests.length, 1);

      writeFileSync(request.partial, Buffer.concat([BYTES.subarray(1), BYTES.subarray(0, 1)]));
      const mended = await transferWith(request, policy);
      assert.equal(mended.fetchedBytes, SIZE);
    });

    test("a leftover of another digest, and one that was tampered with, never come through", async () => {
      const handler: Handler = (request, reply) => reply.file(BYTES, request.index === 0 ? { cutAfter: 2 * MIB } : {});
      for (const tamper of [
        (path: string) => writeFileSync(path, sampleBytes(SIZE, 8)),
        (path: string) => writeFileSync(path, ""),
        (path: string) => writeFileSync(`${path}.journal`, "not a journal"),
        (path: string) => writeFileSync(`${path}.journal`, ""),
        (path: string) => {
          const journal = readFileSync(`${path}.journal`);
          journal.writeUInt8(journal.readUInt8(30) ^ 1, 30);
          journal.writeUInt8(journal.readUInt8(8192 + 30) ^ 1, 8192 + 30);
          writeFileSync(`${path}.journal`, journal);
        },
      ]) {
        using folder = new Folder();
        await using server = await TestServer.start(handler);
        const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
        await assert.rejects(transferWith(request, { ...policy, retries: 0 }));
        tamper(request.partial);
        const result = await transferWith(request, policy);
        assert.ok(readFileSync(result.path).equals(BYTES));
      }
      using folder = new Folder();
      await using server = await TestServer.start(handler);
      const request = { urls: [`${server.origin}/image`], digest: "0".repeat(64), partial: folder.file("p") };
      await assert.rejects(transferWith(request, { ...policy, retries: 0 }));
      const result = await transferWith({ ...request, digest: DIGEST }, policy);
      assert.equal(result.fetchedBytes, SIZE);
    });

    test("holes stay holes", async () => {
      const sparse = Buffer.alloc(24 * MIB);
      sampleBytes(MIB, 2).copy(sparse, 7 * MIB + 13);
      sparse[20 * MIB + 5] = 1;
      for (const cutAfter of [Infinity, 7 * MIB + 100_001]) {
        using folder = new Folder();
        await using server = await TestServer.start((request, reply) =>
          reply.file(sparse, request.index === 0 ? { cutAfter } : {}),
        );
        const request = { urls: [`${server.origin}/image`], digest: sha256(sparse), partial: folder.file("p") };
        const { extents, path, size } = await transferWith(request, policy);
        assert.equal(size, sparse.length);
        const allocated = statSync(path).blocks * 512;
        const data = extents.reduce((sum, [start, end]) => sum + end - start, 0);
        assert.ok(allocated <= data + 64 * 1024, `${allocated} bytes on disk for ${data} bytes of data`);
        assert.ok(data <= 1.1 * MIB);
        // What the extents leave out is zero.
        const holes = Buffer.from(sparse);
        for (const [start, end] of extents) holes.fill(0, start, end);
        assert.ok(holes.every((byte) => byte === 0));
        assert.deepEqual(extents.at(-1), [20 * MIB, 20 * MIB + 4096]);
      }
    });
  });
}

void test("discardPartial removes the file and what belongs to it, and nothing else", async () => {
  using folder = new Folder();
  for (const name of ["p", "p.journal", "p.unpacked", "pq", "q"]) writeFileSync(folder.file(name), "");
  await discardPartial(folder.file("p"));
  assert.deepEqual(folder.names(), ["pq", "q"]);
  await discardPartial(folder.file("p"));
  await discardPartial(folder.file("none/p"));
});
