import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { suite, test } from "node:test";
import { fileURLToPath } from "node:url";

import { transferWith } from "../../../src/images/fetch/transfer.js";
import { TestServer } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256, TRANSPORTS } from "./setting.js";

const MIB = 1024 * 1024;
const SIZE = 6 * MIB + 777;
const BYTES = sampleBytes(SIZE, 11);
const DIGEST = sha256(BYTES);
const CHILD = fileURLToPath(new URL("./child.js", import.meta.url));
/** `SMOLVM_TEST_LONG=1` tries thousands. */
const KILLS = process.env["SMOLVM_TEST_LONG"] === undefined ? 12 : 1_000;

for (const transport of TRANSPORTS) {
  for (const lanes of [1, 8]) {
    void suite(`a process that is killed, over the ${transport} transport with ${lanes} connections`, () => {
      test("the next one goes on: right bytes, at most 1 MiB of them fetched twice", async (t) => {
        // Slow enough that the sockets' buffers are nearly empty: what was sent is what the process had got.
        let [kills, most, connections] = [0, 0, 0];
        while (kills < KILLS) {
          using folder = new Folder();
          let rate = (12 * MIB) / lanes;
          await using server = await TestServer.start((_request, reply) => reply.file(BYTES, { rate }));
          const request = { url: `${server.origin}/image`, digest: DIGEST, partial: folder.file("p") };
          const wanted = 1 + Math.floor(Math.random() * 3);
          for (let killed = 0; killed < wanted; killed++) {
            if ((await run(JSON.stringify({ ...request, transport, lanes }), 20 + Math.random() * 250)) === "done")
              break;
            kills++;
            connections = Math.max(connections, server.connections);
          }
          // The process that comes after them is this test's own.
          rate = Infinity;
          const policy = policyFor(transport, { gapTimeoutMs: 5_000, maxLanes: 1 });
          const result = await transferWith({ ...request, urls: [request.url] }, policy);
          assert.ok(readFileSync(result.path).equals(BYTES));
          most = Math.max(most, (server.sent - SIZE) / wanted);
        }
        assert.ok(most <= MIB, `${most} bytes were fetched twice for each kill`);
        t.diagnostic(
          `${kills} kills; at most ${Math.round(most)} bytes fetched twice; up to ${connections} connections`,
        );
      });
    });
  }
}

/** Runs the child for so long after it has begun, then kills it. "done" if it was quicker. */
async function run(argument: string, afterMs: number): Promise<"done" | "killed"> {
  const child = spawn(process.execPath, [CHILD, argument], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    await once(child.stdout, "data");
    const ended = once(child, "exit");
    const timer = setTimeout(() => child.kill("SIGKILL"), afterMs);
    const [status, signal] = (await ended) as [number | null, string | null];
    clearTimeout(timer);
    assert.ok(status === 0 || signal === "SIGKILL", `the process ended with ${String(status ?? signal)}`);
    return status === 0 ? "done" : "killed";
  } finally {
    child.kill("SIGKILL");
  }
}
