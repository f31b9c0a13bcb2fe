import assert from "node:assert/strict";
import { test } from "node:test";

import { CommandExecutionUnavailableError } from "../../src/errors.js";
import { encodeHeader, FrameType, MAX_PAYLOAD } from "../../src/guest/frames.js";
import { connectGuest, type GuestConnection } from "../../src/guest/index.js";
import { OUTPUT_WINDOW } from "../../src/guest/streams.js";
import { ForgedGuest, frame } from "./forged.js";

const STARTED = frame(FrameType.started, 1, 0, Buffer.alloc(8));
const NOTHING = Buffer.alloc(0);

/** What ends a connection on which one command has been started on channel 1. */
async function reasonFor(...sent: readonly Buffer[]): Promise<string> {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const command = guest.exec({ command: "x" });
  for (const piece of sent) forged.push(piece);
  const error = await guest.closed;
  assert.ok(error instanceof CommandExecutionUnavailableError);
  assert.equal(error.details["reason"], "protocol");
  assert.ok(error.hint);
  await assert.rejects(command.exit, error);
  assert.ok(forged.destroyed);
  return error.message;
}

test("every way to break the protocol ends the connection with what was wrong", async () => {
  assert.match(await reasonFor(encodeHeader(FrameType.data, 1, 1, MAX_PAYLOAD + 1)), /262145 bytes/);
  assert.match(await reasonFor(encodeHeader(FrameType.data, 1, 1, 0xffff_ffff)), /4294967295 bytes/);
  assert.match(await reasonFor(frame(99, 1, 0, NOTHING)), /unknown kind/);
  assert.match(await reasonFor(frame(FrameType.exec, 1, 0, NOTHING)), /unknown kind/);
  assert.match(await reasonFor(frame(FrameType.data, 1, 1, NOTHING)), /empty data/);
  assert.match(await reasonFor(frame(FrameType.reply, 7, 0, NOTHING)), /isn't open/);
  assert.match(await reasonFor(frame(FrameType.data, 2, 1, Buffer.of(1))), /isn't open/);
  assert.match(await reasonFor(frame(FrameType.data, 1, 3, Buffer.of(1))), /isn't open/);
  assert.match(await reasonFor(frame(FrameType.reply, 1, 0, NOTHING)), /does not belong to a command/);
  assert.match(await reasonFor(frame(FrameType.exit, 1, 0, Buffer.of(0, 0))), /before the start/);
  assert.match(await reasonFor(STARTED, STARTED), /second start/);
  assert.match(await reasonFor(STARTED, frame(FrameType.exit, 1, 0, Buffer.of(0))), /too early/);
  const most = frame(FrameType.data, 1, 1, Buffer.alloc(MAX_PAYLOAD));
  assert.match(
    await reasonFor(STARTED, ...Array.from({ length: OUTPUT_WINDOW / MAX_PAYLOAD }, () => most)),
    /without credit/,
  );
});

test("a channel number is free again only after its last frame", async () => {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const abort = new AbortController();
  const given = guest.files.readFile("/x", { signal: abort.signal });
  abort.abort(new Error("given up"));
  await assert.rejects(given, /given up/);
  forged.push(frame(FrameType.data, 1, 1, Buffer.alloc(1000))); // was on its way: no violation
  forged.push(frame(FrameType.fail, 1, 0, Buffer.from([125, 0, 0, 0, 0, 0, 0, 0, 0])));
  await new Promise(setImmediate);
  forged.push(frame(FrameType.data, 1, 1, Buffer.alloc(1)));
  assert.match((await guest.closed).message, /isn't open/);
});

async function withReply(
  call: (guest: GuestConnection) => Promise<unknown>,
  ...frames: readonly Buffer[]
): Promise<unknown> {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const result = call(guest);
  for (const piece of frames) forged.push(piece);
  return result.finally(() => guest.close());
}

test("answers that make no sense are errors of the call, not of the program", async () => {
  const reply = (bytes: Buffer): Buffer => frame(FrameType.reply, 1, 0, bytes);
  await assert.rejects(
    withReply((guest) => guest.files.stat("/"), reply(Buffer.alloc(3))),
    CommandExecutionUnavailableError,
  );
  await assert.rejects(
    withReply((guest) => guest.files.readlink("/"), reply(Buffer.alloc(200, 255))),
    CommandExecutionUnavailableError,
  );
  await assert.rejects(
    withReply((guest) => guest.files.readdir("/"), frame(FrameType.data, 1, 1, Buffer.alloc(2)), reply(NOTHING)),
    CommandExecutionUnavailableError,
  );
  await assert.rejects(
    withReply((guest) => guest.files.readdir("/"), frame(FrameType.data, 1, 1, Buffer.alloc(9, 255))),
    /too long/,
  );
  const unknown = Buffer.from([231, 3, 0, 0, 0, 0, 0, 0, 0]);
  await assert.rejects(
    withReply((guest) => guest.files.stat("/"), frame(FrameType.fail, 1, 0, unknown)),
    { code: "ERRNO_999" },
  );
});
