import assert from "node:assert/strict";
import { suite, test } from "node:test";

import type { Handler } from "../../fixtures/servers/server.js";
import { attempt, trialsCounted, type Trial } from "./attempt.js";
import { sampleBytes, ROUTES } from "./setting.js";

const BYTES = sampleBytes(300_000);

/** Misbehaves in the first answer only. */
function once(fault: Handler): Handler {
  return (request, reply) => (request.index === 0 ? fault(request, reply) : reply.file(BYTES));
}

for (const { transport, scheme, name } of ROUTES) {
  const run = (handler: Handler, more: Partial<Trial> = {}): ReturnType<typeof attempt> => {
    return attempt({ transport, scheme, bytes: BYTES, handler, ...more });
  };

  void suite(`a server whose answers are no help, over the ${name}`, () => {
    test("an encoding that was not asked for is an error, whatever it is", async () => {
      for (const encoding of ["gzip", "br", "identity, gzip"]) {
        const { error } = await run((_request, reply) =>
          reply.file(BYTES, { headers: { "Content-Encoding": encoding } }),
        );
        assert.match(error?.message ?? "", /Content-Encoding/);
      }
      const { result } = await run((_request, reply) =>
        reply.file(BYTES, { headers: { "Content-Encoding": "identity" } }),
      );
      assert.notEqual(result, null);
    });

    test("a body that never ends stops at the limit, and one that says so is not begun", async () => {
      const { error } = await run(
        async (_request, reply) => {
          await reply.head(200, { "Transfer-Encoding": "chunked" });
          for (;;) {
            await reply.text("10000\r\n");
            await reply.body(Buffer.alloc(0x10000, 1));
            await reply.text("\r\n");
          }
        },
        { policy: { maxBytes: 1_000_000 } },
      );
      assert.match(error?.message ?? "", /larger than the limit of 1000000 bytes/);

      const vast = await run(async (_request, reply) => {
        await reply.head(200, { "Content-Length": 2 ** 49 });
        await reply.body(BYTES);
      });
      assert.equal(vast.error?.code, "IMAGE_NO_SPACE");
      assert.ok(vast.error.hint?.includes("SMOLVM_IMAGE_DIR"));
    });

    test("a server that falls silent is left after the gap, and gone on with", async () => {
      const silent: Handler = async (_request, reply) => {
        await reply.head(200, { "Content-Length": BYTES.length, ETag: '"v1"' });
        await reply.body(BYTES.subarray(0, 70_000));
        await new Promise((resolve) => reply.socket.once("close", resolve));
      };
      const { requests } = await run(once(silent));
      assert.equal(requests[1]?.headers.get("range"), "bytes=70000-");

      const { error } = await run(
        async (_request, reply) => {
          await new Promise((resolve) => reply.socket.once("close", resolve));
        },
        { policy: { headersTimeoutMs: 60, retries: 2 } },
      );
      assert.match(error?.message ?? "", /timed out: no answer from 127\.0\.0\.1:\d+ within 0\.06 s/);
    });

    test("a server that drips slowly is waited for as long as it drips", async () => {
      const bytes = BYTES.subarray(0, 24);
      const { result } = await attempt({
        transport,
        scheme,
        bytes,
        handler: (_request, reply) => reply.file(bytes, { rate: 25 }),
        policy: { gapTimeoutMs: 200 },
      });
      assert.equal(result?.fetchedBytes, 24);
    });

    test("headers that drip have one limit for all of them", async () => {
      const { error } = await run(
        async (_request, reply) => {
          await reply.text("HTTP/1.1 200 OK\r\n");
          for (;;) {
            await reply.text("X: y\r\n");
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
        },
        { policy: { headersTimeoutMs: 100, retries: 1 } },
      );
      assert.match(error?.message ?? "", /timed out/);
    });

    test("errors of the server are tried again, those of the request are not", async () => {
      for (const status of [408, 429, 500, 502, 503, 504]) {
        const { result, requests } = await run(once((_request, reply) => reply.status(status)));
        assert.notEqual(result, null);
        assert.equal(requests.length, 2);
      }
      for (const status of [204, 205, 300, 304, 400, 401, 403, 404, 410, 451]) {
        const { error, requests } = await run((_request, reply) => reply.status(status));
        assert.match(error?.message ?? "", new RegExp(`^Download failed for https?:.*/image: HTTP ${status}`));
        assert.equal(requests.length, 1);
      }
      const { error, requests } = await run((_request, reply) => reply.status(503), { policy: { retries: 4 } });
      assert.match(error?.message ?? "", /HTTP 503/);
      assert.equal(requests.length, 5);
    });

    test("Retry-After is honoured in seconds and as a date, up to a limit", async () => {
      const values = [() => "1", () => new Date(Date.now() + 2_100).toUTCString()];
      for (const valueNow of values) {
        const began = performance.now();
        // The date is that of the answer: on a busy machine the question may come late.
        const { result } = await run(once((_request, reply) => reply.status(503, { "Retry-After": valueNow() })));
        assert.notEqual(result, null);
        assert.ok(performance.now() - began >= 900, `waited for ${performance.now() - began} ms`);
      }
      const { error, requests } = await run((_request, reply) => reply.status(503, { "Retry-After": 3600 }));
      assert.match(error?.message ?? "", /HTTP 503 Status; the server asks to wait 3600 s/);
      assert.equal(requests.length, 1);
    });

    test("headers without end are cut off", async () => {
      const bombs: Handler[] = [
        async (_request, reply) => {
          await reply.text(`HTTP/1.1 200 OK\r\nX: ${"y".repeat(200_000)}\r\n\r\n`);
        },
        async (_request, reply) => {
          await reply.text("HTTP/1.1 200 OK\r\n");
          for (;;) await reply.text("X-Another: header\r\n".repeat(100));
        },
        async (_request, reply) => {
          for (;;) await reply.text("HTTP/1.1 100 Continue\r\n\r\n".repeat(100));
        },
      ];
      for (const [index, bomb] of bombs.entries()) {
        const { error } = await run(bomb, { policy: { retries: 1 } });
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED", `bomb ${index}`);
      }
    });

    test("what is not HTTP is an error", async () => {
      for (const answer of [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "<html>no</html>\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "\0".repeat(100),
        "HTTP/1.1 2000 OK\r\n\r\n",
      ]) {
        const { error } = await run(
          async (_request, reply) => {
            await reply.text(answer);
            reply.close();
          },
          { policy: { retries: 1 } },
        );
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED", JSON.stringify(answer));
      }
    });

    test("interim answers before the real one are passed over", async () => {
      const { result } = await run(async (_request, reply) => {
        await reply.text("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
        await reply.file(BYTES);
      });
      assert.notEqual(result, null);
    });

    test("a server that nobody runs is an error with the reason", async () => {
      const { error } = await run(() => undefined, { request: { urls: ["http://127.0.0.1:1/image"] } });
      assert.match(error?.message ?? "", /^Download failed for https?:\/\/127\.0\.0\.1:1\/image: connect ECONNREFUSED/);
    });

    test("all of these were tried", (t) => t.diagnostic(`${trialsCounted()} transfers against misbehaving servers`));
  });
}
