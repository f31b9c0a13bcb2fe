import { Duplex } from "node:stream";

import { encodeHeader } from "../../src/guest/frames.js";
import { PayloadWriter } from "../../src/guest/payload.js";

export interface Welcome {
  readonly version?: number;
  /** Sent before the answer. */
  readonly before?: Buffer;
  /** Sent right behind it, in one piece with it. */
  readonly behind?: Buffer;
  /** Leaves that many hellos without an answer. */
  readonly ignore?: number;
  /** Takes nothing that is written to it once it has answered. */
  readonly deaf?: boolean;
  /** What it calls itself. */
  readonly agent?: string;
}

export function frame(type: number, channel: number, stream: number, payload: Buffer): Buffer {
  return Buffer.concat([encodeHeader(type, channel, stream, payload.length), payload]);
}

export function welcome(nonce: Buffer, version = 1, agent = "9.9"): Buffer {
  const info = new PayloadWriter()
    .string(agent, "v")
    .string("kernel", "k")
    .string("x86_64", "a")
    .u8(1)
    .u8(3)
    .u8(0)
    .finish("info");
  const numbers = Buffer.alloc(8);
  numbers.writeUInt32LE(version, 0);
  numbers.writeUInt32LE(info.length, 4);
  return Buffer.concat([Buffer.from("smolvm-welcom\r\n\xff", "latin1"), nonce, numbers, info]);
}

/** A guest that answers the handshake as told, and afterwards sends whatever is pushed. */
export class ForgedGuest extends Duplex {
  readonly received: Buffer[] = [];
  readonly #welcome: Welcome;
  #hellos = 0;

  constructor(answer: Welcome = {}) {
    super();
    this.#welcome = answer;
  }

  override _read(): void {
    // it pushes on its own
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.received.push(Buffer.from(chunk));
    const hello = chunk.indexOf("smolvm-hello");
    if (hello >= 0 && ++this.#hellos > (this.#welcome.ignore ?? 0)) {
      const { before, behind, version, agent } = this.#welcome;
      if (before !== undefined) this.push(before);
      const nonce = chunk.subarray(hello + 16, hello + 32);
      this.push(Buffer.concat([welcome(nonce, version, agent), behind ?? Buffer.alloc(0)]));
      done();
    } else if (this.#welcome.deaf !== true) {
      done();
    }
  }
}
