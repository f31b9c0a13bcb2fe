import assert from "node:assert/strict";
import { test } from "node:test";

import { CommandExecutionUnavailableError, GuestFileError } from "../../src/errors.js";
import { encodeHeader, FrameType, MAX_PAYLOAD } from "../../src/guest/frames.js";
import { connectGuest, type GuestConnection } from "../../src/guest/index.js";
import { OUTPUT_WINDOW } from "../../src/guest/streams.js";
import { PayloadWriter } from "../../src/guest/payload.js";
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

const ENTRIES = 1000;
const LISTED = Buffer.concat(
  Array.from({ length: ENTRIES }, () => new PayloadWriter().u8(8).string("a", "name").finish("entry")),
);

test("a folder without end is an error, and so is a file in it without a name", async () => {
  await assert.rejects(
    withReply((guest) => guest.files.readdir("/"), frame(FrameType.data, 1, 1, Buffer.alloc(6))),
    /without a name/,
  );
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const listing = guest.files.readdir("/endless");
  const state = { pending: true };
  const settled = listing.catch(() => undefined).then(() => (state.pending = false));
  const piece = frame(FrameType.data, 1, 1, LISTED);
  let frames = 0;
  for (; state.pending && frames < 2000; frames++) {
    forged.push(piece);
    await new Promise(setImmediate);
  }
  await settled;
  await assert.rejects(listing, { code: "EOVERFLOW" });
  assert.ok(frames <= 1_000_000 / ENTRIES + 10, `${frames} frames`);
  guest.close();
});

test("a guest that sends tiny frames gets few answers, and one that never takes them is ended", async () => {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const listing = guest.files.readdir("/");
  const before = forged.received.length;
  const [first, second] = [LISTED.subarray(0, 1), LISTED.subarray(1, 2)];
  for (let i = 0; i < ENTRIES; i++) {
    for (const byte of [first, second, LISTED.subarray(2, 7)]) forged.push(frame(FrameType.data, 1, 1, byte));
  }
  await new Promise(setImmediate);
  const answers = forged.received.length - before;
  assert.ok(answers >= 1 && answers < 5, `${answers} answers to ${3 * ENTRIES} frames`);
  forged.push(frame(FrameType.reply, 1, 0, NOTHING));
  assert.equal((await listing).length, ENTRIES);
  guest.close();

  const deaf = new ForgedGuest({ deaf: true });
  const connection = await connectGuest(deaf);
  const stream = connection.files.createReadStream("/x").resume();
  const piece = frame(FrameType.data, 1, 1, Buffer.alloc(MAX_PAYLOAD / 2));
  const state = { over: false };
  const closed = connection.closed.then((error) => {
    state.over = true;
    return error;
  });
  for (let i = 0; i < 20_000 && !state.over; i++) {
    deaf.push(piece);
    await new Promise(setImmediate);
  }
  assert.ok(state.over, "it sends for ever");
  assert.match((await closed).message, /does not read/);
  assert.ok(stream.destroyed);
});

test("a file is never more than was asked for, and never more than this program's memory is meant for", async () => {
  const data = frame(FrameType.data, 1, 1, Buffer.alloc(1001));
  const isTooLarge = (error: unknown): boolean =>
    error instanceof GuestFileError && error.code === "EFBIG" && error.hint !== undefined;
  await assert.rejects(
    withReply((guest) => guest.files.readFile("/x", { maxBytes: 1000 }), data),
    isTooLarge,
  );
  await assert.rejects(
    withReply((guest) => guest.files.readFile("/x", { length: 1000 }), data),
    /more of a file than was asked for/,
  );
  const streamed = (guest: GuestConnection): Promise<unknown> =>
    guest.files.createReadStream("/x", { length: 1000 }).toArray();
  await assert.rejects(withReply(streamed, data), /more of a file than was asked for/);
});

test("what was given up stays accounted for, and a guest that ends none of it is ended", async (t) => {
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  const giveUp = async (times: number): Promise<void> => {
    const abort = new AbortController();
    const all = Array.from({ length: times }, () => guest.files.readFile("/x", { signal: abort.signal }));
    abort.abort(new Error("given up"));
    await Promise.allSettled(all);
  };
  let now = 0;
  t.mock.method(performance, "now", () => now);
  await giveUp(1000);
  assert.ok(!forged.destroyed, "it has had no time yet");
  now = 11_000;
  await giveUp(1);
  assert.match((await guest.closed).message, /told to end go on/);
});

test("the guest's words are shown without what a terminal acts on, and cut", async () => {
  const evil = `\x1b]0;title\x07\x1b[2J\u202e\x9b31m\n${"x".repeat(5000)}`;
  const harmless = (text: string): void => {
    assert.doesNotMatch(text, /[\x00-\x1f\x7f-\x9f\u202a-\u202e]/);
    assert.ok(text.length < 400, `${text.length} characters`);
  };
  const fail = frame(FrameType.fail, 1, 0, new PayloadWriter().u32(12).string(evil, "stage").finish("fail"));
  for (const call of [
    (guest: GuestConnection) => guest.exec({ command: "x" }).exit,
    (guest: GuestConnection) => guest.sync(),
  ]) {
    await assert.rejects(withReply(call, fail), (error: unknown) => {
      assert.ok(error instanceof CommandExecutionUnavailableError);
      harmless(error.message);
      harmless(String(error.details["stage"]));
      return true;
    });
  }
  const forged = new ForgedGuest();
  const guest = await connectGuest(forged);
  forged.push(frame(FrameType.error, 0, 0, Buffer.from(evil)));
  harmless((await guest.closed).message);
  const named = await connectGuest(new ForgedGuest({ agent: evil.slice(0, 800) }));
  harmless(named.agent.version);
  named.close();
});
