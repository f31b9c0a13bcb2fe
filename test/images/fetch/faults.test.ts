import assert from "node:assert/strict";
import { suite, test } from "node:test";

import type { Handler, Reply, ServedRequest } from "../../fixtures/servers/server.js";
import { attempt, trialsCounted, type Trial } from "./attempt.js";
import { sampleBytes, ROUTES } from "./setting.js";

const BYTES = sampleBytes(300_000);
const OTHER = sampleBytes(300_000, 7);

/** Misbehaves in the first answer only. */
function once(fault: Handler, then: Handler = (_request, reply) => reply.file(BYTES)): Handler {
  return (request, reply) => (request.index === 0 ? fault(request, reply) : then(request, reply));
}

const cutAt = (cutAfter: number, options: Parameters<Reply["file"]>[1] = {}): Handler => {
  return (_request, reply) => reply.file(BYTES, { ...options, cutAfter });
};

const range = (request: ServedRequest | undefined): string | undefined => request?.headers.get("range");

for (const { transport, scheme, name } of ROUTES) {
  const run = (handler: Handler, more: Partial<Trial> = {}): ReturnType<typeof attempt> => {
    return attempt({ transport, scheme, bytes: BYTES, handler, ...more });
  };

  void suite(`a server that misbehaves, over the ${name}`, () => {
    test("a connection that closes early goes on at the byte where it broke", async () => {
      for (const cut of [1, 2, 4095, 4096, 4097, 65_536, 131_071, 262_144, 299_999]) {
        const { result, requests } = await run(once(cutAt(cut)));
        assert.equal(requests.length, 2);
        assert.equal(range(requests[1]), `bytes=${cut}-`);
        assert.equal(requests[1]?.headers.get("if-range"), '"v1"');
        assert.equal(result?.fetchedBytes, BYTES.length);
      }
    });

    test("a connection that closes before or within its headers is tried again", async () => {
      const head = `HTTP/1.1 200 OK\r\nContent-Length: ${BYTES.length}\r\nETag: "v1"\r\n\r\n`;
      for (const cut of [0, 1, 8, 15, 17, 30, head.length - 2, head.length - 1, head.length]) {
        const { result } = await run(
          once(async (_request, reply) => {
            await reply.text(head.slice(0, cut));
            reply.close();
          }),
        );
        assert.notEqual(result, null);
      }
    });

    test("a connection that is reset is tried again", async () => {
      for (const cut of [0, 5000, 299_999]) {
        const { result } = await run(once(cutAt(cut, { reset: true })));
        assert.notEqual(result, null);
      }
    });

    test("a connection that breaks again and again still comes to the end", async () => {
      const { result, requests } = await run(cutAt(40_000));
      assert.notEqual(result, null);
      assert.equal(requests.length, 8);
    });

    test("without a strong validator nothing is put together from two answers", async () => {
      for (const etag of [null, 'W/"v1"', "v1"]) {
        const { requests } = await run(once(cutAt(150_000, { etag })));
        assert.equal(range(requests[1]), undefined);
      }
    });

    test("a date stands in for an entity tag only if it is older than the answer", async () => {
      const modified = "Sat, 01 Jan 2000 00:00:00 GMT";
      for (const [date, expected] of [
        ["Sat, 01 Jan 2000 00:00:10 GMT", "bytes=150000-"],
        [modified, undefined],
      ] as const) {
        const headers = { "Last-Modified": modified, Date: date };
        const { requests } = await run(once(cutAt(150_000, { etag: null, headers })));
        assert.equal(range(requests[1]), expected);
      }
    });

    test("a Content-Length that promises too much is an error, and never a shorter file", async () => {
      for (const pinned of [true, false]) {
        const { error } = await run(
          async (_request, reply) => {
            await reply.head(200, { "Content-Length": BYTES.length + 10 });
            await reply.body(BYTES);
            reply.close();
          },
          { pinned },
        );
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED");
        assert.match(error.message, /ended early/);
      }
    });

    test("a Content-Length that promises too little never passes as the pinned file", async () => {
      const { error } = await run(async (_request, reply) => {
        await reply.head(200, { "Content-Length": BYTES.length - 10 });
        await reply.body(BYTES);
        reply.close();
      });
      assert.ok(error?.code === "IMAGE_CHECKSUM_MISMATCH" || error?.code === "IMAGE_DOWNLOAD_FAILED");
    });

    test("a Content-Length that is no number is an error", async () => {
      for (const length of ["12abc", "-1", "1e5", "", "0x10", "5, 6", "99999999999999999999"]) {
        const { error } = await run(async (_request, reply) => {
          await reply.head(200, { "Content-Length": length });
          await reply.body(BYTES);
          reply.close();
        });
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED", `Content-Length: ${length}`);
      }
    });

    test("a body that ends with the connection is taken if a digest can judge it, and refused otherwise", async () => {
      const closing: Handler = async (_request, reply) => {
        await reply.head(200, { Connection: "close" });
        await reply.body(BYTES);
        reply.close();
      };
      assert.notEqual((await run(closing)).result, null);
      const { error } = await run(closing, { pinned: false });
      assert.match(error?.message ?? "", /neither its length nor where it ends/);
      const { error: short } = await run(async (_request, reply) => {
        await reply.head(200, { Connection: "close" });
        await reply.body(BYTES.subarray(0, 1000));
        reply.close();
      });
      assert.equal(short?.code, "IMAGE_CHECKSUM_MISMATCH");
    });

    test("a chunked body is taken whole, and gone on with where it breaks", async () => {
      const chunked = (end: string, cut = BYTES.length): Handler => {
        return async (_request, reply) => {
          await reply.head(200, { "Transfer-Encoding": "chunked", ETag: '"v1"' });
          for (let at = 0; at < cut; at += 10_000) {
            const piece = BYTES.subarray(at, Math.min(cut, at + 10_000));
            await reply.text(`${piece.length.toString(16)}\r\n`);
            await reply.body(piece);
            await reply.text("\r\n");
          }
          await reply.text(end);
          if (end !== "0\r\n\r\n") reply.close();
        };
      };
      const breaking: Handler = (request, reply) =>
        range(request) === undefined ? chunked("", 120_000)(request, reply) : reply.file(BYTES);
      for (const pinned of [true, false]) {
        assert.notEqual((await run(chunked("0\r\n\r\n"), { pinned })).result, null);
        const { result, requests } = await run(breaking, { pinned });
        assert.notEqual(result, null);
        assert.equal(range(requests.at(-1)), "bytes=120000-");
      }
      for (const end of ["", "0\r\n", "zz\r\n", "ffffffffffffffffff\r\n", "-5\r\n"]) {
        const { error } = await run(chunked(end), { pinned: false });
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED", JSON.stringify(end));
      }
    });

    test("a part that is not the one asked for makes the transfer start over", async () => {
      const size = BYTES.length;
      for (const answer of [
        `bytes 0-${size - 1}/${size}`,
        `bytes 99999-${size - 1}/${size}`,
        `bytes 100001-${size - 1}/${size}`,
        `bytes 100000-${size - 1}/${size + 1}`,
        `bytes 100000-${size}/${size}`,
        `bytes 100000-99999/${size}`,
        `bytes 100000-${size - 1}`,
        `items 100000-${size - 1}/${size}`,
        "bytes */*",
        "",
      ]) {
        const wrong: Handler = async (request, reply) => {
          if (range(request) === undefined) return reply.file(BYTES);
          const body = OTHER.subarray(100_000);
          await reply.head(206, { "Content-Range": answer, "Content-Length": body.length, ETag: '"v1"' });
          await reply.body(body);
        };
        for (const pinned of [true, false]) {
          const { stored } = await run(once(cutAt(100_000), wrong), { pinned });
          assert.ok(stored?.equals(BYTES), `Content-Range: ${answer}`);
        }
      }
    });

    test("a part that nobody asked for is not taken", async () => {
      const { error } = await run(async (_request, reply) => {
        await reply.head(206, { "Content-Range": `bytes 0-999/${BYTES.length}`, "Content-Length": 1000 });
        await reply.body(BYTES.subarray(0, 1000));
      });
      assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED");
    });

    test("416 makes the transfer start over, unless everything is here", async () => {
      const refusing: Handler = (request, reply) =>
        range(request) === undefined ? reply.file(BYTES) : reply.status(416, { "Content-Range": "bytes */5" });
      const { result, requests } = await run(once(cutAt(100_000), refusing));
      assert.notEqual(result, null);
      assert.deepEqual(requests.map(range), [undefined, "bytes=100000-", undefined]);
    });

    test("a file that changes on the server between two answers is fetched anew", async () => {
      for (const pinned of [true, false]) {
        const changed: Handler = (_request, reply) => reply.file(BYTES, { etag: '"v2"' });
        const first: Handler = (_request, reply) => reply.file(OTHER, { cutAfter: 120_000 });
        const { stored } = await run(once(first, changed), { pinned });
        assert.ok(stored?.equals(BYTES));
      }
    });

    test("a part of another version is told by its entity tag, or else by the digest", async () => {
      const ignorant = (etag: string | null): Handler => {
        return async (request, reply) => {
          const headers = new Map([...request.headers].filter(([name]) => name !== "if-range"));
          Object.assign(request, { headers });
          await reply.file(BYTES, { etag });
        };
      };
      const first: Handler = (_request, reply) => reply.file(OTHER, { cutAfter: 120_000 });
      assert.ok((await run(once(first, ignorant('"v2"')), { pinned: false })).stored?.equals(BYTES));
      const { stored, requests } = await run(once(first, ignorant(null)));
      assert.ok(stored?.equals(BYTES));
      assert.deepEqual(requests.map(range), [undefined, "bytes=120000-", undefined]);
    });

    test("without a digest no part is taken that is not of the same version by its date or tag", async () => {
      const date = (day: number): string => `Mon, 0${day} Jan 2024 00:00:00 GMT`;
      const dated = (bytes: Buffer, day: number | null): Handler => {
        return async (request, reply) => {
          const now = { Date: date(9), ...(day === null ? {} : { "Last-Modified": date(day) }) };
          const start = Number(/\d+/.exec(range(request) ?? "0")?.[0]);
          const body = bytes.subarray(start);
          if (start === 0) await reply.head(200, { ...now, "Content-Length": bytes.length });
          else {
            const part = `bytes ${start}-${bytes.length - 1}/${bytes.length}`;
            await reply.head(206, { ...now, "Content-Range": part, "Content-Length": body.length });
          }
          await reply.body(request.index === 0 ? body.subarray(0, 120_000) : body);
          if (request.index === 0) reply.close();
        };
      };
      const asked = async (first: Handler, then: Handler): Promise<(string | undefined)[]> => {
        const { stored, requests } = await run(once(first, then), { pinned: false });
        assert.ok(stored?.equals(BYTES));
        return requests.map(range);
      };
      const whole = [undefined, "bytes=120000-", undefined];
      assert.deepEqual(await asked(dated(OTHER, 1), dated(BYTES, 2)), whole);
      assert.deepEqual(await asked(dated(OTHER, 1), dated(BYTES, null)), whole);
      assert.deepEqual(await asked(dated(BYTES, 1), dated(BYTES, 1)), whole.slice(0, 2));
    });

    test("200 where a part was asked for starts over", async () => {
      const { result, stored } = await run(
        once(cutAt(100_000), (_request, reply) => reply.file(BYTES, { ranges: false })),
      );
      assert.ok(stored?.equals(BYTES));
      assert.equal(result?.fetchedBytes, BYTES.length + 100_000);
    });

    test("wrong bytes at a seam are fetched once from zero; wrong bytes always are an error", async () => {
      const spoilt: Handler = (request, reply) =>
        range(request) === undefined ? reply.file(BYTES) : reply.file(OTHER, { etag: '"v1"' });
      const { stored, requests } = await run(once(cutAt(100_000), spoilt));
      assert.ok(stored?.equals(BYTES));
      assert.equal(requests.length, 3);

      const { error, requests: asked } = await run((_request, reply) => reply.file(OTHER));
      assert.equal(error?.code, "IMAGE_CHECKSUM_MISMATCH");
      assert.match(
        error.message,
        /^SHA-256 mismatch for https?:.*\n {2}expected: [0-9a-f]{64}\n {2}actual: {3}[0-9a-f]{64}$/,
      );
      assert.equal(asked.length, 1);

      const never = await run(
        once(
          (_request, reply) => reply.file(OTHER, { cutAfter: 9 }),
          (_request, reply) => reply.file(OTHER),
        ),
      );
      assert.equal(never.error?.code, "IMAGE_CHECKSUM_MISMATCH");
      assert.equal(never.requests.length, 3);
    });

    test("all of these were tried", (t) => t.diagnostic(`${trialsCounted()} transfers against misbehaving servers`));
  });
}
