import { encodeHeader, FrameType } from "../../src/guest/frames.js";
import { PayloadWriter } from "../../src/guest/payload.js";
import type { Dice } from "./fuzz.js";

/* What a client may send to an agent: mostly sensible requests, with values and bytes that are not. */

const PATHS = ["/tmp/a", "/tmp", "/", "", "/tmp/b/c/d", "/etc/passwd", "relative", "/tmp/a/", `/${"n".repeat(5000)}`];
/** What does not fit in one frame: the agent forks for these. */
const LARGE_PATHS = [...PATHS, "/tmp/large", "/full"];
const FILE_OPERATIONS = Array.from({ length: 14 }, (_, index) => 32 + index);

function someCall(dice: Dice, forking: boolean): Buffer {
  const writer = new PayloadWriter();
  const path = (): string => dice.pick(forking ? LARGE_PATHS : PATHS);
  switch (dice.below(9)) {
    case 0:
      return writer.u16(1).finish("ping");
    case 1:
      return writer
        .u16(16)
        .u64(BigInt(dice.number()))
        .u64(BigInt(dice.number()))
        .u32(dice.number())
        .string(path(), "p")
        .finish("read");
    case 2:
      return writer.u16(17).u8(dice.below(16)).u32(0o644).string(path(), "p").finish("write");
    case 3:
      return writer.u16(18).u32(dice.number()).string(path(), "p").finish("list");
    case 4:
      if (!forking) return writer.u16(1).finish("ping");
      return writer
        .u16(19)
        .u8(dice.below(2))
        .u8(dice.below(2))
        .string(dice.pick(["/tmp/a", "/tmp/b", "/tmp/c"]), "p")
        .finish("remove");
    case 5:
      return writer
        .u16(45)
        .u8(dice.below(16))
        .u32(dice.below(0o10000))
        .string(path(), "p")
        .bytes(dice.bytes(dice.below(300)))
        .finish("put");
    case 6:
      return writer.u16(3).u32(2).string("A=b", "e").string("C=", "e").finish("environment");
    case 7:
      return configuration(dice);
    default:
      return writer
        .u16(dice.pick(FILE_OPERATIONS))
        .string(path(), "p")
        .string(path(), "p")
        .u64(BigInt(dice.number()))
        .u64(7n)
        .u64(8n)
        .finish("file");
  }
}

function configuration(dice: Dice): Buffer {
  const writer = new PayloadWriter().u16(2).string("name", "h").string("id", "i").u64(1n).bytes(dice.bytes(40));
  writer.string("10.0.2.15", "a").u8(24).string("10.0.2.2", "g").string("10.0.2.3", "d");
  return writer
    .u32(1)
    .string("K=v", "e")
    .u32(1)
    .string("/dev/vdb", "s")
    .string("/tmp/mnt", "t")
    .string("ext4", "t")
    .u8(1)
    .finish("configure");
}

function someExec(dice: Dice): Buffer {
  const writer = new PayloadWriter()
    .u8(dice.below(4))
    .u32(dice.number())
    .u32(dice.number())
    .u16(dice.below(200))
    .u16(dice.below(200));
  writer
    .string(dice.pick(["", "root", "user", "1:1", "user:root", "none", ":", "x".repeat(200)]), "u")
    .string(dice.pick(["", "/tmp", "/none"]), "c");
  const argv = [dice.pick(["/bin/sh", "sh", "none", ""]), ...Array.from({ length: dice.below(4) }, () => "argument")];
  writer.u32(argv.length);
  for (const argument of argv) writer.string(argument, "a");
  return writer
    .u32(2)
    .string("A=1", "e")
    .string(dice.pick(["PATH=/bin:/usr/bin", "PATH=", "="]), "e")
    .finish("exec");
}

/** One client's frames: requests on channels of their own, the rest for channels that may still be open. */
export function conversation(dice: Dice, length: number): Buffer[] {
  let last = 0;
  const forking = dice.chance(12); // under sanitizers a fork costs as much as a thousand other frames
  const frames: Buffer[] = [];
  const add = (type: number, payload: Buffer, channel: number, stream = 0): void => {
    const bytes = Buffer.concat([encodeHeader(type, channel, stream, payload.length), payload]);
    frames.push(dice.chance(1500) ? dice.mutate(bytes) : bytes);
  };
  while (frames.length < length) {
    const recent = dice.chance(100) ? dice.number() : Math.max(1, last - dice.below(6));
    switch (dice.below(10)) {
      case 0:
      case 1:
      case 2:
        add(FrameType.call, dice.chance(300) ? dice.mutate(someCall(dice, forking)) : someCall(dice, forking), ++last);
        break;
      case 3:
        if (!forking) break;
        add(FrameType.exec, dice.chance(50) ? dice.mutate(someExec(dice)) : someExec(dice), ++last);
        break;
      case 4: {
        if (!forking) break;
        // A file or a terminal with input to it: data where it is allowed.
        add(
          FrameType.call,
          new PayloadWriter().u16(17).u8(dice.below(16)).u32(0o644).string("/tmp/a", "p").finish("write"),
          ++last,
        );
        const pieces = dice.below(4);
        for (let i = 0; i < pieces; i++)
          add(FrameType.data, dice.bytes(1 + dice.below(dice.chance(10) ? 60_000 : 50)), last);
        if (dice.chance(2)) add(FrameType.end, Buffer.alloc(0), last);
        break;
      }
      case 5:
        add(FrameType.credit, Buffer.from(Uint32Array.of(dice.number()).buffer), recent, dice.below(4));
        break;
      case 6:
        add(FrameType.signal, dice.bytes(2), recent);
        break;
      case 7:
        add(FrameType.resize, dice.bytes(4), recent);
        break;
      case 8:
        add(FrameType.end, Buffer.alloc(0), recent, dice.below(4));
        break;
      default:
        add(dice.chance(200) ? FrameType.data : FrameType.cancel, dice.bytes(dice.below(3)), recent);
    }
  }
  add(FrameType.call, new PayloadWriter().u16(1).finish("ping"), LAST_CHANNEL);
  return frames;
}

const LAST_CHANNEL = 0xffff_fffe;
/** What an agent answers that understood a conversation to its end. */
export const LAST_ANSWER = encodeHeader(FrameType.reply, LAST_CHANNEL, 0, 0);
