import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { CommandExecutionUnavailableError, OperationTimeoutError } from "../../src/errors.js";
import { FrameType } from "../../src/guest/frames.js";
import { connectGuest } from "../../src/guest/index.js";
import { ForgedGuest, frame, welcome } from "./forged.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

test("what an earlier client left is skipped, also an answer to its own greeting", async () => {
  const stale = Buffer.concat([
    randomBytes(100_000),
    welcome(randomBytes(16)),
    Buffer.from("smolvm-welcom\r\n"),
    randomBytes(500),
  ]);
  const guest = await connectGuest(new ForgedGuest({ before: stale }));
  assert.deepEqual([guest.agent.version, guest.agent.kernel, guest.agent.lane], ["9.9", "kernel", 3]);
  guest.close();
});

test("the answer is found however its bytes are cut", async () => {
  const forged = new ForgedGuest({ ignore: 1 });
  const pending = connectGuest(forged, { fresh: true });
  const nonce = forged.received[0]?.subarray(16, 32);
  assert.ok(nonce);
  for (const byte of Buffer.concat([randomBytes(50), welcome(nonce)])) {
    forged.push(Buffer.of(byte));
    await new Promise(setImmediate);
  }
  assert.equal((await pending).agent.protocol, 1);
});

test("frames that come in one piece with the answer are not lost", async () => {
  const behind = frame(FrameType.error, 0, 0, Buffer.from("all over"));
  const guest = await connectGuest(new ForgedGuest({ behind }));
  assert.match((await guest.closed).message, /all over/);
});

test("an agent that takes the greeting for the rest of a frame is greeted again, behind a frame's worth of padding", async () => {
  const forged = new ForgedGuest({ ignore: 1 });
  const guest = await connectGuest(forged, { timeoutMs: 30_000 });
  assert.equal(forged.received.length, 2);
  assert.ok((forged.received[1]?.length ?? 0) > 256 * 1024);
  guest.close();
});

test("no answer in time, an abort, an end and another version are each their own error", async () => {
  await assert.rejects(connectGuest(new ForgedGuest({ ignore: 99 }), { timeoutMs: 50 }), OperationTimeoutError);
  const reason = new Error("no more");
  await assert.rejects(connectGuest(new ForgedGuest({ ignore: 99 }), { signal: AbortSignal.abort(reason) }), reason);
  const abort = new AbortController();
  setTimeout(() => abort.abort(reason), 20);
  await assert.rejects(connectGuest(new ForgedGuest({ ignore: 99 }), { signal: abort.signal }), reason);
  const ending = new ForgedGuest({ ignore: 99 });
  setTimeout(() => ending.push(null), 20);
  await assert.rejects(connectGuest(ending), CommandExecutionUnavailableError);
  const failing = new ForgedGuest({ ignore: 99 });
  setTimeout(() => failing.destroy(new Error("EPIPE")), 20);
  await assert.rejects(connectGuest(failing), CommandExecutionUnavailableError);
  await assert.rejects(connectGuest(new ForgedGuest({ version: 0 })), (error) => {
    return (
      error instanceof CommandExecutionUnavailableError && error.hint !== undefined && /version 1/.test(error.message)
    );
  });
});

test("a guest that only ever sends noise is given up, without keeping the noise", async () => {
  const forged = new ForgedGuest({ ignore: 99 });
  const refusal = assert.rejects(connectGuest(forged, { fresh: true }), /64 MiB/);
  const noise = randomBytes(1024 * 1024);
  const pushed: WeakRef<ArrayBufferLike>[] = [];
  for (let i = 0; i < 70; i++) {
    const piece = Buffer.from(noise);
    pushed.push(new WeakRef(piece.buffer));
    forged.push(piece);
    await new Promise(setImmediate);
    if (i === 50) {
      collectGarbage();
      const kept = pushed.filter((piece) => piece.deref() !== undefined).length;
      assert.ok(kept < 10, `${kept} of ${pushed.length} MiB are kept`);
    }
  }
  await refusal;
});
