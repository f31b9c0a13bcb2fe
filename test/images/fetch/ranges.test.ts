import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { suite, test } from "node:test";

import fc from "fast-check";

import { Claims, type Claim } from "../../../src/images/fetch/http/claims.js";
import { Ramp } from "../../../src/images/fetch/http/ramp.js";
import { DEFAULT_POLICY } from "../../../src/images/fetch/policy.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { pause, type Reply, TestServer, type Handler } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256, TRANSPORTS } from "./setting.js";

const MIB = 1024 * 1024;
const SIZE = 12 * MIB + 321;
const BYTES = sampleBytes(SIZE, 21);
const DIGEST = sha256(BYTES);
/** The server runs in the same thread as the client here, so that the thread's load says nothing. */
const QUICK = { laneTrialMs: 160, laneWorthMs: 0, gapTimeoutMs: 2_000, maxLoad: 1 };

for (const transport of TRANSPORTS) {
  void suite(`several connections for one file, over the ${transport} transport`, () => {
    test("are added while each is slow and all together are quicker", async () => {
      using folder = new Folder();
      // Each response is limited, as a lossy line limits each connection.
      let first = Infinity;
      await using server = await TestServer.start(async (request, reply) => {
        await reply.file(BYTES, { rate: 2 * MIB });
        if (request.index === 0) first = reply.sent;
      });
      const urls = [`${server.origin}/image`];
      const result = await transferWith(
        { urls, digest: DIGEST, partial: folder.file("p") },
        policyFor(transport, QUICK),
      );
      assert.ok(readFileSync(result.path).equals(BYTES));
      assert.ok(server.connections >= 3 && server.connections <= 12, `${server.connections} connections`);
      // Each brought its share at the same rate, so together they were quicker than the first alone.
      assert.ok(first < 0.75 * SIZE, `${first} of ${SIZE} bytes came over the first connection`);
      assert.ok(result.fetchedBytes <= SIZE + MIB, `${result.fetchedBytes} bytes fetched`);
      for (const request of server.requests.slice(1)) assert.equal(request.headers.get("if-range"), '"v1"');
    });

    test("are not added where the server can't serve parts of one and the same file", async () => {
      const options = [{ etag: null }, { etag: 'W/"v1"' }, { ranges: false }];
      for (const one of options) {
        using folder = new Folder();
        const bytes = BYTES.subarray(0, 3 * MIB);
        await using server = await TestServer.start((_request, reply) => reply.file(bytes, { rate: 8 * MIB, ...one }));
        const request = { urls: [`${server.origin}/image`], digest: sha256(bytes), partial: folder.file("p") };
        await transferWith(request, policyFor(transport, QUICK));
        assert.equal(server.requests.length, 1);
      }
    });

    test("that are refused, broken or wrong leave the rest to those that work", async (t) => {
      const bytes = BYTES.subarray(0, 4 * MIB);
      const faults: Record<string, Handler> = {
        "HTTP 503": (_request, reply) => reply.status(503),
        "HTTP 403": (_request, reply) => reply.status(403),
        "cut off": (_request, reply) => reply.file(bytes, { cutAfter: 100_000, rate: 2 * MIB }),
        reset: (_request, reply) => reply.reset(),
        "200": (_request, reply) => reply.file(bytes, { ranges: false }),
        "another part": async (_request, reply) => {
          await reply.head(206, { "Content-Range": `bytes 0-9/${bytes.length}`, "Content-Length": 10 });
          await reply.body(bytes.subarray(0, 10));
        },
        encoded: (_request, reply) => reply.file(bytes, { headers: { "Content-Encoding": "gzip" } }),
        silent: (_request, reply) => new Promise((resolve) => reply.socket.once("close", resolve)),
      };
      for (const [name, fault] of Object.entries(faults)) {
        using folder = new Folder();
        let faulty = 0;
        await using server = await TestServer.start((request, reply) => {
          const part = request.headers.get("range");
          if (part === undefined || part.endsWith("-") || faulty >= 3) return reply.file(bytes, { rate: 4 * MIB });
          faulty++;
          return fault(request, reply);
        });
        const request = { urls: [`${server.origin}/image`], digest: sha256(bytes), partial: folder.file("p") };
        const policy = policyFor(transport, { ...QUICK, gapTimeoutMs: 400, laneTrialMs: 60 });
        const result = await transferWith(request, policy);
        assert.ok(readFileSync(result.path).equals(bytes), name);
        assert.ok(faulty > 0, `${name}: no connection was added`);
      }
      t.diagnostic(`${Object.keys(faults).length} faults`);
    });

    test("that all break leave what they brought to the next attempt", async () => {
      using folder = new Folder();
      await using server = await TestServer.start(async (request, reply) => {
        if (request.index > 20) return reply.file(BYTES);
        return reply.file(BYTES, { rate: 4 * MIB, cutAfter: 700_000, reset: request.index % 2 === 0 });
      });
      const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
      const result = await transferWith(request, policyFor(transport, { ...QUICK, retries: 20 }));
      assert.ok(readFileSync(result.path).equals(BYTES));
      assert.ok(result.fetchedBytes <= SIZE + MIB);
    });

    test("that bring parts of another version end the attempt: without a digest too, no two versions are mixed", async () => {
      const old = sampleBytes(SIZE, 22);
      for (const told of ['"v2"', null]) {
        using folder = new Folder();
        let first: Reply | undefined;
        await using server = await TestServer.start(async (request, reply) => {
          // It ignores If-Range, and the file has changed since the first answer.
          Object.assign(request, { headers: new Map([...request.headers].filter(([name]) => name !== "if-range")) });
          if (request.index === 0) {
            first = reply;
            return reply.file(old, { rate: 2 * MIB });
          }
          const part = request.headers.has("range");
          await reply.file(BYTES, part ? { etag: told, rate: 2 * MIB } : { etag: '"v2"', rate: 16 * MIB });
        });
        const request = { urls: [`${server.origin}/image`], digest: null, partial: folder.file("p") };
        const result = await transferWith(request, policyFor(transport, QUICK));
        assert.equal(result.digest, DIGEST);
        assert.ok((first?.sent ?? SIZE) < SIZE, "it went on with the old version to its end");
        assert.ok(
          server.requests.some(({ headers }) => headers.has("range")),
          "no connection was added",
        );
      }
    });

    test("are all ended by an abort, and what they brought is gone on with", async () => {
      using folder = new Folder();
      await using server = await TestServer.start((request, reply) =>
        reply.file(BYTES, request.index < 100 && rate !== null ? { rate } : {}),
      );
      let rate: number | null = 2 * MIB;
      const stop = new AbortController();
      const request = { urls: [`${server.origin}/image`], digest: DIGEST, partial: folder.file("p") };
      const promise = transferWith({ ...request, signal: stop.signal }, policyFor(transport, QUICK));
      promise.catch(() => undefined); // awaited below
      const deadline = performance.now() + 30_000;
      while (server.connections < 2 && performance.now() < deadline) await pause(20);
      assert.ok(server.connections > 1);
      await pause(200); // for the others to bring something
      const [sent, asked] = [server.sent, performance.now()];
      stop.abort();
      await assert.rejects(promise, { name: "AbortError" });
      assert.ok(performance.now() - asked < 5_000);
      rate = null;
      const result = await transferWith(request, policyFor(transport));
      assert.ok(readFileSync(result.path).equals(BYTES));
      assert.ok(result.fetchedBytes <= SIZE - sent + 2 * MIB, `${result.fetchedBytes} after ${sent}`);
    });
  });
}

void test("claims cover every byte once, whatever the connections do", () => {
  const step = fc.record({ lane: fc.nat(7), kind: fc.nat(9), amount: fc.integer({ min: 1, max: 3 * MIB }) });
  const property = fc.property(
    fc.integer({ min: 1, max: 80 * MIB }),
    fc.array(step, { maxLength: 300 }),
    (total, steps) => {
      const claims = new Claims([[0, total]]);
      const lanes: (Claim | null)[] = Array.from({ length: 8 }, () => null);
      const got: [number, number][] = [];
      const fill = (claim: Claim, amount: number): void => {
        const end = Math.min(claim.end, claim.next + amount);
        got.push([claim.next, end]);
        claim.next = end;
      };
      lanes[0] = claims.begin([0, total]);
      const move = (lane: number, kind: number, amount: number): void => {
        const claim = lanes[lane] ?? null;
        if (claim === null) {
          lanes[lane] = claims.take(8);
          return;
        }
        fill(claim, amount);
        const over = claim.next >= claim.end && !claims.extend(claim, lane === 0 ? total : claim.end, 8);
        if (over || kind === 0) {
          claims.release(claim);
          lanes[lane] = null;
        }
      };
      for (const { lane, kind, amount } of steps) move(lane, kind, amount);
      for (let rest = 0; rest < 10_000; rest++) move(rest % 8, 1, 16 * MIB);
      got.sort((a, b) => a[0] - b[0]);
      let at = 0;
      for (const [start, end] of got) {
        assert.equal(start, at);
        at = end;
      }
      assert.equal(at, total);
    },
  );
  fc.assert(property, { numRuns: 200 });
});

void suite("the number of connections", () => {
  /** Simulates a line: `rate(lanes)` bytes per millisecond. Gives the number of connections in the end, and the most. */
  const simulate = (rate: (lanes: number) => number, total: number): { lanes: number; most: number } => {
    const ramp = new Ramp(DEFAULT_POLICY, 0, 0, () => 0);
    let [received, most] = [0, 1];
    for (let now = 50; received < total && now < 60_000; now += 50) {
      received += 50 * rate(ramp.lanes);
      ramp.tick(received, total - received, now);
      most = Math.max(most, ramp.lanes);
    }
    return { lanes: ramp.lanes, most };
  };

  test("grows to the limit where each connection has its own share", () => {
    assert.equal(simulate((lanes) => lanes * 1_400, 64 * MIB).lanes, 8);
  });

  test("grows only after ever longer pauses where one connection fills the line", () => {
    assert.equal(simulate(() => 25_000, 48 * MIB).lanes, 2);
    assert.equal(simulate(() => 25_000, 128 * MIB).lanes, 4);
  });

  test("grows at once when the line turns worse", () => {
    let sent = 0;
    const worsening = (lanes: number): number => (++sent < 30 ? 25_000 : lanes * 1_000);
    assert.equal(simulate(worsening, 64 * MIB).lanes, 8);
  });

  test("stays one where it will be over soon", () => {
    assert.equal(simulate((lanes) => lanes * 100_000, 90 * MIB).most, 1);
  });
});
