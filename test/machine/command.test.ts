import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { OperationTimeoutError } from "../../src/errors.js";
import { FrameType } from "../../src/guest/frames.js";
import { connectGuest } from "../../src/guest/index.js";
import { runCommand, type CommandHost } from "../../src/machine/command.js";
import { ForgedGuest, frame } from "../guest/forged.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** What is handed on from one turn of the loop to the next is still held: it takes a few. */
async function isCollected(reference: WeakRef<WeakKey> | undefined): Promise<boolean> {
  for (let turn = 0; turn < 200; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    collectGarbage();
    if (reference?.deref() === undefined) return true;
  }
  return false;
}

test("a command whose end the guest never confirms holds nothing once it is given up", async () => {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  let held = 0;
  const host: CommandHost = {
    exec: (request) => guest.exec(request),
    hold: () => {
      held++;
      let done = false;
      return {
        [Symbol.dispose]: () => {
          if (!done) held--;
          done = true;
        },
      };
    },
    explain: (error) => Promise.resolve(error),
  };
  const { signal } = new AbortController();
  const printed: WeakRef<ArrayBufferLike>[] = [];
  const options = { signal, timeoutMs: 100, onStdout: (chunk: Buffer) => printed.push(new WeakRef(chunk.buffer)) };
  const running = runCommand(host, "x", options);
  assert.equal(held, 1);
  forged.push(frame(FrameType.started, 1, 0, Buffer.alloc(8)));
  forged.push(frame(FrameType.data, 1, 1, Buffer.alloc(50_000)));
  await assert.rejects(running, OperationTimeoutError);
  assert.equal(held, 0);
  assert.deepEqual(getEventListeners(signal, "abort"), []);
  // What comes late is taken as the protocol has it, and thrown away.
  forged.push(frame(FrameType.data, 1, 1, Buffer.alloc(1000)));
  assert.ok(await isCollected(printed[0]), "its output is still in memory");
  assert.equal(printed.length, 1);
  assert.ok(!forged.destroyed);
  guest.close();
});

test("a file whose reading was given up is not kept for the guest to end it", async () => {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const abort = new AbortController();
  const reading = guest.files.readFile("/x", { signal: abort.signal });
  const sent = ((): WeakRef<ArrayBufferLike> => {
    const bytes = frame(FrameType.data, 1, 1, Buffer.alloc(200_000));
    forged.push(bytes);
    return new WeakRef(bytes.buffer);
  })();
  await new Promise((resolve) => setTimeout(resolve, 10));
  abort.abort(new Error("given up"));
  await assert.rejects(reading, /given up/);
  assert.deepEqual(getEventListeners(abort.signal, "abort"), []);
  assert.ok(await isCollected(sent), "its content is still in memory");
  guest.close();
});
