import { performance } from "node:perf_hooks";
import type { Duplex } from "node:stream";

import { CommandExecutionUnavailableError } from "../errors.js";
import { printableNote } from "../printable.js";
import { Call } from "./call.js";
import { encodeConfiguration, encodeEnvironment } from "./configuration.js";
import { Files } from "./files.js";
import { encodeHeader, FrameDecoder, FrameType, type FrameSink, violation } from "./frames.js";
import { handshake } from "./handshake.js";
import { PayloadWriter } from "./payload.js";
import { Process } from "./process.js";
import type {
  AgentInfo,
  CallOptions,
  ConnectOptions,
  ExecRequest,
  GuestConfiguration,
  GuestConnection,
  GuestFiles,
  GuestProcess,
} from "./types.js";

/** One operation on a connection: what answers to the frames of its channel. */
export interface Channel {
  /** A data frame of that cost begins. Throws a violation when the guest has no credit for it. */
  charge(stream: number, cost: number): void;
  data(stream: number, bytes: Buffer): void;
  /** Any other frame. True when it was the channel's last. */
  frame(type: number, stream: number, payload: Buffer): boolean;
  /** The connection is over. */
  lost(error: Error): void;
}

/** What channels need from their connection. */
export interface Link {
  /** Gives the new channel's number. Throws what ended the connection, if it is over. */
  open(channel: Channel): number;
  send(type: number, channel: number, stream: number, payload?: Uint8Array, sent?: () => void): void;
  /** The guest was told to end that channel, and nobody here waits for it any more. Once for each channel at most. */
  forsake(channel: number): void;
}

/** Operation numbers of docs/protocol.md. */
const Operation = { ping: 1, configure: 2, setEnvironment: 3, sync: 4, powerOff: 5, growRoot: 6 } as const;

const COPY_BELOW = 4096;
/**
 * Credit that may wait to be taken by the guest. One that reads has few such frames waiting for each of its operations, as it
 * runs out of credit without them; one that sends and never reads would fill this program's memory with them.
 */
const MOST_GRANTS = 8192;
/** A guest that leaves more operations than this unended, so long after it was told to end them, is not ending any. */
const MOST_FORSAKEN = 256;
const FORSAKEN_MS = 10_000;
const NOTHING = Buffer.alloc(0);

/**
 * Opens a connection on a lane. The stream belongs to it from then on.
 *
 * @throws CommandExecutionUnavailableError when the stream ends or the agent speaks another version.
 * @throws OperationTimeoutError after `timeoutMs`.
 */
export async function connectGuest(stream: Duplex, options: ConnectOptions = {}): Promise<GuestConnection> {
  const { agent, rest } = await handshake(stream, options);
  return new Connection(stream, agent, rest);
}

class Connection implements GuestConnection, Link, FrameSink {
  readonly agent: AgentInfo;
  readonly files: GuestFiles;
  readonly closed: Promise<Error>;
  readonly #stream: Duplex;
  readonly #channels = new Map<number, Channel>();
  /** Channels that the guest was told to end and has not, with when it was told: the oldest first. */
  readonly #forsaken = new Map<number, number>();
  #lastChannel = 0;
  #grants = 0;
  #over: Error | null = null;
  #settleClosed: (error: Error) => void = () => undefined;

  constructor(stream: Duplex, agent: AgentInfo, rest: Buffer) {
    this.agent = agent;
    this.#stream = stream;
    this.files = new Files(this);
    this.closed = new Promise((resolve) => (this.#settleClosed = resolve));
    const decoder = new FrameDecoder(this);
    const receive = (chunk: Buffer): void => {
      if (this.#over !== null) return;
      try {
        decoder.push(chunk);
      } catch (error) {
        this.#end(error as Error);
      }
    };
    const ended = (): void => this.#end(gone("it was closed"));
    stream.on("data", receive);
    stream.on("end", ended).on("close", ended);
    stream.on("error", (cause) => this.#end(gone("it failed", cause)));
    if (rest.length > 0) receive(rest);
    if (stream.destroyed || stream.readableEnded) ended();
    stream.resume();
  }

  configure(configuration: GuestConfiguration, options?: CallOptions): Promise<void> {
    return this.#call(Operation.configure, encodeConfiguration(configuration), "configure", options);
  }

  setEnv(env: Readonly<Record<string, string>>, options?: CallOptions): Promise<void> {
    const payload = new PayloadWriter().u16(Operation.setEnvironment);
    return this.#call(null, encodeEnvironment(payload, env).finish("The environment"), "set environment", options);
  }

  exec(request: ExecRequest): GuestProcess {
    return new Process(this, request);
  }

  sync(options?: CallOptions): Promise<void> {
    return this.#call(Operation.sync, NOTHING, "sync", options);
  }

  growRoot(options?: CallOptions): Promise<void> {
    return this.#call(Operation.growRoot, NOTHING, "grow its root file system", options);
  }

  async ping(options?: CallOptions): Promise<number> {
    const start = performance.now();
    await this.#call(Operation.ping, NOTHING, "ping", options);
    return performance.now() - start;
  }

  powerOff(options?: CallOptions): Promise<void> {
    return this.#call(Operation.powerOff, NOTHING, "power off", options);
  }

  close(): void {
    this.#end(gone("it was closed by this program"));
  }

  async #call(operation: number | null, body: Buffer, name: string, options?: CallOptions): Promise<void> {
    const head = operation === null ? NOTHING : new PayloadWriter().u16(operation).finish(name);
    await new Call(this, Buffer.concat([head, body]), { operation: name, path: "", signal: options?.signal }).result;
  }

  // --- Link ---

  open(channel: Channel): number {
    if (this.#over !== null) throw this.#over;
    do this.#lastChannel = this.#lastChannel === 0xffff_ffff ? 1 : this.#lastChannel + 1;
    while (this.#channels.has(this.#lastChannel));
    this.#channels.set(this.#lastChannel, channel);
    return this.#lastChannel;
  }

  send(type: number, channel: number, stream: number, payload: Uint8Array = NOTHING, sent?: () => void): void {
    if (this.#over !== null) {
      sent?.();
      return;
    }
    const header = encodeHeader(type, channel, stream, payload.length);
    if (type === FrameType.credit) {
      if (++this.#grants > MOST_GRANTS) {
        this.#end(violation("it sends and does not read"));
        return;
      }
      sent = () => this.#grants--;
    }
    if (payload.length < COPY_BELOW) {
      this.#stream.write(payload.length === 0 ? header : Buffer.concat([header, payload]), sent);
    } else {
      this.#stream.cork();
      this.#stream.write(header);
      this.#stream.write(payload, sent);
      this.#stream.uncork();
    }
  }

  forsake(channel: number): void {
    const now = performance.now();
    if (this.#over !== null || this.#forsaken.has(channel)) return;
    this.#forsaken.set(channel, now);
    if (this.#forsaken.size <= MOST_FORSAKEN) return;
    let late = 0;
    for (const since of this.#forsaken.values()) {
      if (now - since < FORSAKEN_MS) return;
      if (++late > MOST_FORSAKEN) break;
    }
    this.#end(violation("operations that it was told to end go on"));
  }

  // --- FrameSink ---

  dataBegins(number: number, stream: number, length: number): void {
    this.#channel(number).charge(stream, length);
  }

  data(number: number, stream: number, bytes: Buffer): void {
    // The channel can't have ended since the frame began; but its reader may have closed the whole connection.
    if (this.#over === null) this.#channel(number).data(stream, bytes);
  }

  frame(type: number, number: number, stream: number, payload: Buffer): void {
    if (this.#over !== null) return;
    if (type === FrameType.error) {
      const text = printableNote(payload.toString("utf8"));
      throw new CommandExecutionUnavailableError(`The guest's agent closed the connection: "${text}".`, {
        hint: "Connect to the machine again.",
        details: { reason: "agent" },
      });
    }
    if (!this.#channel(number).frame(type, stream, payload)) return;
    this.#channels.delete(number);
    this.#forsaken.delete(number);
  }

  #channel(number: number): Channel {
    const channel = this.#channels.get(number);
    if (channel === undefined) throw violation("a frame for a channel that isn't open");
    return channel;
  }

  #end(error: Error): void {
    if (this.#over !== null) return;
    this.#over = error;
    const channels = [...this.#channels.values()];
    this.#channels.clear();
    this.#forsaken.clear();
    this.#stream.destroy();
    for (const channel of channels) channel.lost(error);
    this.#settleClosed(error);
  }
}

function gone(reason: string, cause?: unknown): CommandExecutionUnavailableError {
  return new CommandExecutionUnavailableError(`The connection to the guest ended: ${reason}.`, {
    hint: "The machine may have stopped: look at its console, then start it again.",
    details: { reason: "closed" },
    cause,
  });
}
