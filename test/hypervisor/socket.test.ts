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
    const failing = await connectUnix(folder, "s", { timeoutMs: 5000 });
    failing.destroy(new Error("connection reset"));
    await new Promise((resolve) => failing.once("close", resolve));
    const paused = await connectUnix(folder, "s", { timeoutMs: 5000, paused: true });
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(paused.bytesRead, 0);
    paused.destroy();
  } finally {
    server.close();
    await rm(folder, { recursive: true, force: true });
  }
});
