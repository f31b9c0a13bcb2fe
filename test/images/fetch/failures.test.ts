import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { suite, test } from "node:test";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

import { HostError } from "../../../src/errors.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { TestServer, type Handler } from "../../fixtures/servers/server.js";
import { failureOf } from "./attempt.js";
import { Folder, policyFor, sampleBytes, sha256, TRANSPORTS } from "./setting.js";

const BYTES = sampleBytes(100_000);
const DIGEST = sha256(BYTES);
const serve: Handler = (_request, reply) => reply.file(BYTES);

for (const transport of TRANSPORTS) {
  const policy = policyFor(transport);

  void suite(`how a failure is told, over the ${transport} transport`, () => {
    test("what can be done about a failure is its hint", async () => {
      await using server = await TestServer.start((request, reply) => reply.status(Number(request.target.slice(1))));
      const noTls = createServer((socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
      noTls.listen(0, "127.0.0.1");
      await once(noTls, "listening");
      using folder = new Folder();
      const cases = [
        [`${server.origin}/404`, /no such file/],
        [`${server.origin}/410`, /no such file/],
        [`${server.origin}/401`, /https:\/\/name:password@host/],
        [`${server.origin}/403`, /refuses the file/],
        [`${server.origin}/503`, /Try again later: what was fetched is kept/],
        ["http://127.0.0.1:1/x", /Nothing answers at that host and port/],
        ["http://nowhere.invalid/x", /Check the host's name/],
        [`https://127.0.0.1:${(noTls.address() as AddressInfo).port}/x`, /may not speak TLS/],
        ["ftp://127.0.0.1/x", /such as https:/],
      ] as const;
      for (const [url, hint] of cases) {
        const request = { urls: [url], digest: DIGEST, partial: folder.file("p") };
        const error = await failureOf(request, { ...policy, retries: 1 });
        assert.ok(error.message.startsWith(`Download failed for ${url}: `), error.message);
        assert.match(error.hint ?? "", hint, `${url}: ${error.message}`);
      }
      noTls.close();
    });

    test("an empty file is no image, wherever it comes from", async () => {
      await using server = await TestServer.start(async (request, reply) => {
        if (request.target === "/length") return reply.status(200);
        if (request.target === "/gzip") return reply.file(gzipSync(""));
        await reply.head(200, { "Transfer-Encoding": "chunked" });
        await reply.text("0\r\n\r\n");
      });
      using folder = new Folder();
      writeFileSync(folder.file("empty"), "");
      const urls = ["/length", "/gzip", "/chunked"].map((target) => server.origin + target);
      for (const url of [...urls, pathToFileURL(folder.file("empty")).href]) {
        for (const digest of url.endsWith("gzip") ? [null] : [null, sha256(Buffer.alloc(0))]) {
          const error = await failureOf({ urls: [url], digest, partial: folder.file("p") }, policy);
          assert.equal(error.message, `Download failed for ${url}: it is empty`);
          assert.deepEqual(folder.names(), ["empty"]);
        }
      }
    });

    test("an error that nobody foresaw leaves as one of this machine, with its cause", async () => {
      await using server = await TestServer.start(serve);
      using folder = new Folder();
      const cause = new RangeError("never seen before");
      const broken = Object.defineProperty({ ...policy }, "maxRedirects", {
        get: () => {
          throw cause;
        },
      });
      const request = { urls: [server.origin], digest: DIGEST, partial: folder.file("p") };
      await assert.rejects(transferWith(request, broken), (error: unknown) => {
        assert.ok(error instanceof HostError, String(error));
        assert.equal(error.cause, cause);
        assert.match(error.message, /never seen before/);
        return true;
      });
    });
  });
}
