import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { connectUnix } from "../../src/hypervisor/socket.js";

test("a connection that fails before anybody listens doesn't end the program, and a paused one takes nothing", async () => {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-socket-"));
  const server = createServer((socket) => socket.on("error", () => undefined).write("first"));
  try {
    server.listen(join(folder, "s"));
    await once(server, "listening");
    const failing = await connectUnix(folder, "s", { timeoutMs: 30_000 });
    failing.destroy(new Error("connection reset"));
    await new Promise((resolve) => failing.once("close", resolve));
    const paused = await connectUnix(folder, "s", { timeoutMs: 30_000, paused: true });
    // What comes to a later one that reads would have come to this one before, if it read.
    for (let turn = 0; turn < 2; turn++) {
      const reading = await connectUnix(folder, "s", { timeoutMs: 30_000 });
      await once(reading, "data");
      reading.destroy();
    }
    assert.equal(paused.bytesRead, 0);
    paused.resume();
    assert.equal(String((await once(paused, "data"))[0]), "first", "there was something to take");
    paused.destroy();
  } finally {
    server.close();
    await rm(folder, { recursive: true, force: true });
  }
});
