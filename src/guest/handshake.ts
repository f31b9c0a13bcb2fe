import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";

import { CommandExecutionUnavailableError, OperationTimeoutError } from "../errors.js";
import { printableNote } from "../printable.js";
import { HEADER_SIZE, MAX_PAYLOAD, violation } from "./frames.js";
import { PayloadReader } from "./payload.js";
import type { AgentInfo, ConnectOptions } from "./types.js";

export const PROTOCOL_VERSION = 1;

const HELLO_MAGIC = Buffer.from("smolvm-hello\r\n\xff\0", "latin1");
const WELCOME_MAGIC = Buffer.from("smolvm-welcom\r\n\xff", "latin1");
const NONCE_SIZE = 16;
/** An earlier client of the lane may have left this much unread, with all buffers on the way full many times over. */
const MAX_STALE = 64 * 1024 * 1024;
const MAX_INFO = 1024;
/** An agent that has not answered by now may take the hello for the rest of a frame of an earlier client. */
const RETRY_MS = 300;

export interface Handshake {
  readonly agent: AgentInfo;
  /** Bytes that came behind the welcome. */
  readonly rest: Buffer;
}

/**
 * Opens a connection on a lane. The nonce in the answer tells what is meant for this client from what an earlier one left.
 * Leaves the stream paused and without listeners.
 */
export async function handshake(stream: Duplex, options: ConnectOptions): Promise<Handshake> {
  options.signal?.throwIfAborted();
  const search = new WelcomeSearch();
  return new Promise<Handshake>((resolve, reject) => {
    let flushed = true;
    const hello = (first: boolean): void => {
      if (!first && !flushed) return; // the last one has not even left: the guest isn't reading yet
      const nonce = randomBytes(NONCE_SIZE);
      search.expect(nonce);
      flushed = false;
      const padding = first ? [] : [Buffer.alloc(HEADER_SIZE + MAX_PAYLOAD)];
      stream.write(Buffer.concat([...padding, HELLO_MAGIC, nonce, versions()]), () => (flushed = true));
    };
    const onData = (chunk: Buffer): void => {
      try {
        const found = search.push(chunk);
        if (found !== null) settle(() => resolve(found));
      } catch (error) {
        const reason = error as Error;
        settle(() => reject(reason));
      }
    };
    const onEnd = (): void => settle(() => reject(unavailable("it was closed before the agent answered")));
    const onError = (cause: Error): void =>
      settle(() => reject(unavailable("it failed before the agent answered", cause)));
    const onAbort = (): void => settle(() => reject(options.signal?.reason as Error));
    const retry = options.fresh === true ? undefined : setInterval(hello, RETRY_MS, false);
    const timeoutMs = options.timeoutMs;
    const deadline =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => settle(() => reject(new OperationTimeoutError("connect", timeoutMs))), timeoutMs);
    const settle = (outcome: () => void): void => {
      clearInterval(retry);
      clearTimeout(deadline);
      stream.pause();
      stream.off("data", onData).off("end", onEnd).off("close", onEnd).off("error", onError);
      options.signal?.removeEventListener("abort", onAbort);
      outcome();
    };
    options.signal?.addEventListener("abort", onAbort);
    stream.on("data", onData).on("end", onEnd).on("close", onEnd).on("error", onError);
    if (stream.destroyed) onEnd();
    else hello(true);
  });
}

function versions(): Buffer {
  const buffer = Buffer.alloc(16);
  buffer.writeUInt32LE(PROTOCOL_VERSION, 0); // oldest that this host speaks
  buffer.writeUInt32LE(PROTOCOL_VERSION, 4); // newest
  return buffer;
}

function unavailable(reason: string, cause?: unknown): CommandExecutionUnavailableError {
  return new CommandExecutionUnavailableError(`There is no channel to the guest: ${reason}.`, {
    hint: "Look at the machine's console for what happened, then start it again.",
    cause,
  });
}

/** Finds the welcome to the newest hello in whatever comes. Keeps no more than a welcome's worth of bytes between chunks. */
export class WelcomeSearch {
  #wanted: Buffer = WELCOME_MAGIC;
  #held: Buffer = Buffer.alloc(0);
  #skipped = 0;

  expect(nonce: Buffer): void {
    this.#wanted = Buffer.concat([WELCOME_MAGIC, nonce]);
  }

  push(chunk: Buffer): Handshake | null {
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const at = bytes.indexOf(this.#wanted);
    if (at < 0) {
      const kept = Math.min(bytes.length, this.#wanted.length - 1);
      this.#skipped += bytes.length - kept;
      if (this.#skipped > MAX_STALE) throw violation("no answer to the handshake among 64 MiB");
      this.#held = Buffer.from(bytes.subarray(bytes.length - kept));
      return null;
    }
    const body = bytes.subarray(at + this.#wanted.length);
    const length = body.length >= 8 ? body.readUInt32LE(4) : 0;
    if (length > MAX_INFO) throw violation("a handshake that is too long");
    if (body.length < 8 || body.length < 8 + length) {
      this.#held = Buffer.from(bytes.subarray(at));
      return null;
    }
    const rest = Buffer.from(body.subarray(8 + length));
    return { agent: readInfo(body.readUInt32LE(0), body.subarray(8, 8 + length)), rest };
  }
}

function readInfo(protocol: number, info: Buffer): AgentInfo {
  const reader = new PayloadReader(info);
  const agent = {
    version: printableNote(reader.string()),
    protocol,
    kernel: printableNote(reader.string()),
    arch: printableNote(reader.string()),
    init: reader.u8() !== 0,
    lane: reader.u8(),
    configured: reader.u8() !== 0,
  };
  if (protocol !== PROTOCOL_VERSION) {
    throw new CommandExecutionUnavailableError(
      `The guest's agent (${agent.version}) doesn't speak protocol version ${PROTOCOL_VERSION}.`,
      { hint: "Stop the machine and start it with this version of smolvm.", details: { agent: agent.version } },
    );
  }
  return Object.freeze(agent);
}
