import assert from "node:assert/strict";
import { suite, test } from "node:test";

import type { TransferProgress } from "../../../src/images/fetch/request.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { pause, TestServer, type Handler } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256, TRANSPORTS } from "./setting.js";

const MIB = 1024 * 1024;
const BYTES = sampleBytes(4 * MIB, 6);
const DIGEST = sha256(BYTES);
const silent: Handler = (_request, reply) => new Promise((resolve) => reply.socket.once("close", resolve));
/** 100 ms are promised; a machine that does much else at the same time gets more. */
const ABORT_MS = 5_000;

for (const transport of TRANSPORTS) {
  const policy = policyFor(transport, { headersTimeoutMs: 20_000, gapTimeoutMs: 20_000, connectTimeoutMs: 20_000 });

  void suite(`manners towards the caller, over the ${transport} transport`, () => {
    test("an abort is felt at once, wherever the transfer stands", async () => {
      const handlers: Record<string, Handler> = {
        "before the headers": silent,
        "in the headers": async (request, reply) => {
          await reply.text("HTTP/1.1 200 OK\r\nX: ");
          await silent(request, reply);
        },
        "in the body": async (request, reply) => {
          await reply.head(200, { "Content-Length": BYTES.length, ETag: '"v1"' });
          await reply.body(BYTES.subarray(0, 70_001));
          await silent(request, reply);
        },
        "between two attempts": (_request, reply) => reply.status(503, { "Retry-After": 50 }),
        "after a redirect": (request, reply) =>
          request.index === 0 ? reply.status(302, { Location: "/elsewhere" }) : silent(request, reply),
      };
      for (const [name, handler] of Object.entries(handlers)) {
        using folder = new Folder();
        await using server = await TestServer.start(handler);
        const stop = new AbortController();
        const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
        const promise = transferWith({ ...request, signal: stop.signal }, policy);
        promise.catch(() => undefined); // awaited below
        const deadline = performance.now() + 15_000;
        const asked = name === "after a redirect" ? 2 : 1;
        while (server.requests.length < asked && performance.now() < deadline) await pause(5);
        await pause(80); // for what comes after the question
        const [reason, abortedAt] = [{ not: "even an error" }, performance.now()];
        stop.abort(reason);
        await assert.rejects(promise, (error) => error === reason, name);
        const took = performance.now() - abortedAt;
        assert.ok(took < ABORT_MS, `${name}: ${took} ms`);
      }
    });

    test("a signal that is aborted before the beginning lets nothing begin", async () => {
      using folder = new Folder();
      await using server = await TestServer.start(silent);
      const request = { urls: [server.origin], digest: null, partial: folder.file("p"), signal: AbortSignal.abort() };
      await assert.rejects(transferWith(request, policy), { name: "AbortError" });
      assert.equal(server.requests.length, 0);
      assert.deepEqual(folder.names(), []);
    });

    test("a second thread that hashes is ended by an abort too, and gives the same digest", async () => {
      using folder = new Folder();
      await using server = await TestServer.start((_request, reply) => reply.file(BYTES));
      const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
      const stop = new AbortController();
      const aborting = { ...request, signal: stop.signal, onProgress: () => stop.abort() };
      const threaded = { ...policy, workerFromBytes: 1 };
      await assert.rejects(transferWith(aborting, threaded), { name: "AbortError" });
      assert.equal((await transferWith(request, threaded)).contentDigest, DIGEST);
    });

    test("progress grows to the total, seldom, and ends each phase", async () => {
      using folder = new Folder();
      await using server = await TestServer.start((_request, reply) => reply.file(BYTES, { rate: 8 * MIB }));
      const seen: TransferProgress[] = [];
      const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
      const began = performance.now();
      await transferWith({ ...request, onProgress: (progress) => seen.push(progress) }, { ...policy, maxLanes: 1 });
      const downloads = seen.filter(({ phase }) => phase === "download");
      assert.ok(downloads.length >= 3 && seen.length <= 4 + (performance.now() - began) / 50, `${seen.length} calls`);
      assert.deepEqual(downloads.at(-1), { phase: "download", bytes: BYTES.length, total: BYTES.length });
      assert.deepEqual(seen.at(-1), { phase: "verify", bytes: BYTES.length, total: BYTES.length });
      for (const [index, { bytes, total }] of downloads.entries()) {
        assert.equal(total, BYTES.length);
        assert.ok(bytes >= (downloads[index - 1]?.bytes ?? 0));
      }
    });

    test("a callback that throws, or whose promise is rejected, changes nothing", async () => {
      await using server = await TestServer.start((_request, reply) => reply.file(BYTES));
      for (const onProgress of [
        () => {
          throw new Error("a progress bar that fails");
        },
        () => Promise.reject(new Error("later")) as unknown as undefined,
      ]) {
        using folder = new Folder();
        const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p"), onProgress };
        assert.equal((await transferWith(request, policy)).contentDigest, DIGEST);
      }
    });

    test("no connection is left open in the end", async () => {
      using folder = new Folder();
      await using server = await TestServer.start((request, reply) =>
        request.index === 0 ? reply.status(302, { Location: "/elsewhere" }) : reply.file(BYTES),
      );
      const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
      await transferWith(request, policy);
      const deadline = performance.now() + 30_000;
      while (server.open > 0 && performance.now() < deadline) await pause(5);
      assert.equal(server.open, 0);
    });
  });
}
