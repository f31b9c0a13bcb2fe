import assert from "node:assert/strict";
import type { Readable } from "node:stream";
import { test } from "node:test";

import { SmolVMError } from "../../src/errors.js";
import { FrameDecoder, FrameType } from "../../src/guest/frames.js";
import { connectGuest, type GuestConnection } from "../../src/guest/index.js";
import { PayloadWriter } from "../../src/guest/payload.js";
import { OUTPUT_WINDOW } from "../../src/guest/streams.js";
import { ForgedGuest, frame } from "./forged.js";
import { Dice, FUZZ_MS } from "./fuzz.js";

const TYPES = Object.values(FrameType);

const words = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer);
const ENTRY = new PayloadWriter().u8(8).string("name", "name").finish("entry");
const OUTPUTS = [1, 2, 5, 8];

/** Frames that a real guest could send next, most of them. */
function likelyFrame(dice: Dice, filler: Buffer): Buffer {
  switch (dice.below(8)) {
    case 0:
      return frame(FrameType.credit, dice.pick([1, 4, 5]), 0, words(dice.number()));
    case 1:
      return frame(FrameType.data, 3, 1, ENTRY);
    case 2:
      return frame(FrameType.data, 1, 2, filler.subarray(0, 1 + dice.below(300)));
    default: {
      const size = 1 + (dice.chance(100) ? dice.below(200_000) : dice.below(200));
      return frame(FrameType.data, dice.pick(OUTPUTS), 1, filler.subarray(0, size));
    }
  }
}

/** Frames that end something, or that no guest would send now. */
function unlikelyFrame(dice: Dice, filler: Buffer): Buffer {
  const channel = dice.below(10);
  switch (dice.below(8)) {
    case 0:
      return frame(FrameType.started, channel, 0, words(dice.number(), dice.number()));
    case 1:
      return frame(FrameType.exit, channel, 0, dice.bytes(dice.below(4)));
    case 2:
      return frame(FrameType.reply, channel, 0, dice.bytes(dice.below(128)));
    case 3: {
      const stage = dice.pick(["", "cwd", "user", "exec", "pipe"]);
      return frame(
        FrameType.fail,
        channel,
        0,
        new PayloadWriter().u32(dice.number()).string(stage, "stage").finish("fail"),
      );
    }
    case 4:
      return frame(FrameType.end, channel, dice.below(4), Buffer.alloc(0));
    case 5:
      return frame(FrameType.data, 3, 1, dice.mutate(ENTRY));
    case 6:
      return frame(
        dice.pick(TYPES),
        dice.chance(2) ? channel : dice.number(),
        dice.below(4),
        dice.bytes(dice.below(20)),
      );
    default:
      return dice.mutate(likelyFrame(dice, filler));
  }
}

function someFrame(dice: Dice, filler: Buffer): Buffer {
  return dice.chance(600) ? unlikelyFrame(dice, filler) : likelyFrame(dice, filler);
}

/** Everything that a user may have going on. Its outcomes: each must be a value or an error of the family. */
function keepBusy(guest: GuestConnection): {
  outcomes: Promise<unknown>[];
  unread: readonly Readable[];
} {
  const command = guest.exec({ command: "x", stdin: true }); // channel 1
  command.stdin?.write(Buffer.alloc(300_000));
  const file = guest.files.readFile("/x"); // 2
  const list = guest.files.readdir("/x"); // 3
  const upload = guest.files.createWriteStream("/x"); // 4
  upload.end(Buffer.alloc(500_000));
  const terminal = guest.exec({ command: "x", tty: { cols: 1, rows: 1 } }); // 5
  const stat = guest.files.stat("/x"); // 6
  const link = guest.files.readlink("/x"); // 7
  const stream = guest.files.createReadStream("/x"); // 8
  const uploaded = new Promise((resolve, reject) => upload.once("close", resolve).once("error", reject));
  const outcomes = [command.exit, command.started, file, list, uploaded, terminal.exit, stat, link, guest.closed];
  return { outcomes, unread: [command.stdout, command.stderr, terminal.stdout, stream] };
}

test("a guest that sends mutated frames gets a typed error, never a crash, a hang or the host's memory", async (t) => {
  const dice = new Dice();
  t.diagnostic(`seed ${dice.seed} (repeat with SMOLVM_FUZZ_SEED)`);
  const filler = dice.bytes(200_000);
  const deadline = Date.now() + FUZZ_MS;
  const before = process.memoryUsage().rss;
  let frames = 0;
  let connections = 0;
  let violations = 0;
  while (Date.now() < deadline) {
    const forged = new ForgedGuest();
    const guest = await connectGuest(forged);
    const { outcomes, unread } = keepBusy(guest);
    const settled = Promise.allSettled(outcomes);
    for (const stream of unread) if (dice.chance(2)) stream.resume();
    for (const channel of [1, 5]) forged.push(frame(FrameType.started, channel, 0, words(1, dice.number())));
    const over = (): boolean => forged.destroyed;
    for (let batch = 0; batch < 200 && !over(); batch++) {
      const pieces: Buffer[] = [];
      for (let i = 0; i < 50; i++) pieces.push(someFrame(dice, filler));
      frames += pieces.length;
      for (const piece of cutUp(dice, Buffer.concat(pieces))) {
        if (!over()) forged.push(piece);
      }
      await new Promise(setImmediate);
      for (const { readableLength } of unread)
        assert.ok(readableLength <= OUTPUT_WINDOW, `${readableLength} bytes lie unread`);
    }
    connections++;
    if (over()) violations++;
    guest.close();
    for (const outcome of await settled) {
      if (outcome.status === "rejected") assert.ok(outcome.reason instanceof SmolVMError, String(outcome.reason));
    }
    assert.ok((await guest.closed) instanceof SmolVMError);
  }
  const grown = Math.round((process.memoryUsage().rss - before) / 1e6);
  t.diagnostic(
    `${frames} frames on ${connections} connections, ${violations} ended by what was sent; memory grew by ${grown} MB`,
  );
  assert.ok(violations > 0 && frames > 10_000);
  assert.ok(grown < 300, `${grown} MB`);
});

test("frames are the same however their bytes are cut, and garbage only ever throws the typed error", (t) => {
  const dice = new Dice();
  const filler = dice.bytes(200_000);
  const deadline = Date.now() + FUZZ_MS / 5;
  let streams = 0;
  while (Date.now() < deadline) {
    const parts = Array.from({ length: 1 + dice.below(20) }, () => someFrame(dice, filler));
    if (dice.chance(2)) parts.push(dice.bytes(dice.below(100)));
    const bytes = Buffer.concat(parts);
    const [whole, cut] = [decode([bytes]), decode(cutUp(dice, bytes))];
    assert.deepEqual(cut, whole, `seed ${dice.seed}`);
    streams++;
  }
  t.diagnostic(`seed ${dice.seed}: ${streams} streams`);
});

function cutUp(dice: Dice, bytes: Buffer): Buffer[] {
  const cuts: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = 1 + dice.below(dice.chance(3) ? 200 : 65_536);
    cuts.push(bytes.subarray(at, at + length));
    at += length;
  }
  return cuts;
}

/** What a decoder makes of it: frames with their payloads, data joined, and the error at the end, if any. */
function decode(chunks: readonly Buffer[]): string[] {
  const seen: string[] = [];
  let data: Buffer[] = [];
  let expected = 0;
  const decoder = new FrameDecoder({
    dataBegins: (channel, stream, length) => {
      seen.push(`data ${channel} ${stream} ${length}`);
      expected = length;
    },
    data: (_channel, _stream, bytes) => {
      data.push(Buffer.from(bytes));
      expected -= bytes.length;
      if (expected > 0) return;
      seen.push(Buffer.concat(data).toString("base64"));
      data = [];
    },
    frame: (type, channel, stream, payload) => seen.push(`${type} ${channel} ${stream} ${payload.toString("base64")}`),
  });
  try {
    for (const chunk of chunks) decoder.push(chunk);
  } catch (error) {
    assert.ok(error instanceof SmolVMError);
    seen.push(error.message);
  }
  return seen;
}
