import { connect as connectTcp, isIP, type Socket, type TcpSocketConnectOpts } from "node:net";
import type { connect as ConnectTls, ConnectionOptions } from "node:tls";

import { asError, FetchFailure } from "../failure.js";
import type { TransferPolicy } from "../policy.js";
import { commonHeaders, type GetRequest, type Receiver, type Transport } from "./exchange.js";
import { contentLength, parseHead, type ResponseHead } from "./head.js";
import { networkFailure } from "./network.js";
import { Watchdog } from "./watchdog.js";

/** The response is one that this transport leaves to the other. The request can be made again there. */
export class Unsuitable extends Error {}

/** One read of the socket takes up to this much, into the same memory each time: that is what makes this transport quick. */
const RECEIVE_SIZE = 256 * 1024;
const HEAD_END = Buffer.from("\r\n\r\n");
const NOTHING = Buffer.alloc(0);
const MAX_INTERIM = 8;

/**
 * A GET of the plainest kind over a socket of its own: status 200 or 206 with a known length, without transfer coding. The
 * parser copies nothing and the receive buffer is never new, which halves the work per byte against node:http.
 */
export class FastTransport implements Transport {
  readonly #policy: TransferPolicy;
  readonly #idle = new Map<string, Connection[]>();
  /** One for all connections: what a read brings is taken in before the next one begins. */
  readonly #buffer = Buffer.allocUnsafeSlow(RECEIVE_SIZE);

  constructor(policy: TransferPolicy) {
    this.#policy = policy;
  }

  async get(request: GetRequest, receiver: Receiver): Promise<void> {
    request.signal.throwIfAborted();
    const { origin } = request.url;
    const kept = this.#idle.get(origin)?.pop();
    if (kept !== undefined) {
      // The server may have closed it just now; then nothing of the answer has come, and a new one is made.
      if (await this.#on(kept, request, receiver, true)) return;
    }
    // Loaded only where it is needed: node:tls takes 10 ms.
    const connectTls = request.url.protocol === "https:" ? (await import("node:tls")).connect : null;
    await this.#on(new Connection(this.#policy, request.url, this.#buffer, connectTls), request, receiver, false);
  }

  async #on(connection: Connection, request: GetRequest, receiver: Receiver, reused: boolean): Promise<boolean> {
    try {
      await connection.get(request, receiver);
    } catch (error) {
      connection.destroy();
      if (reused && !connection.answered && !request.signal.aborted) return false;
      throw error;
    }
    if (connection.reusable) this.#keep(request.url.origin, connection);
    else connection.destroy();
    return true;
  }

  #keep(origin: string, connection: Connection): void {
    const list = this.#idle.get(origin) ?? [];
    list.push(connection);
    this.#idle.set(origin, list);
  }

  close(): void {
    for (const list of this.#idle.values()) for (const connection of list) connection.destroy();
    this.#idle.clear();
  }
}

type State = "idle" | "head" | "body" | "unusable";

class Connection {
  /** Whether the first byte of an answer to the latest request has come. */
  answered = false;
  readonly #policy: TransferPolicy;
  readonly #socket: Socket;
  readonly #connected: Promise<void>;
  #state: State = "idle";
  #head = NOTHING;
  #interim = 0;
  #left = 0;
  #persistent = false;
  #receiver: Receiver | null = null;
  #watchdog: Watchdog | null = null;
  #settle: (error?: unknown) => void = () => undefined;

  /** `connectTls` is null for a connection in the clear. */
  constructor(policy: TransferPolicy, url: URL, buffer: Buffer, connectTls: typeof ConnectTls | null) {
    this.#policy = policy;
    const host = url.hostname.replace(/^\[|\]$/g, "");
    const secure = connectTls !== null;
    const port = Number(url.port || (secure ? 443 : 80));
    const onread = {
      buffer,
      callback: (length: number): boolean => {
        this.#receive(buffer, length);
        return true;
      },
    };
    const options: TcpSocketConnectOpts & ConnectionOptions = { host, port, onread };
    if (secure) {
      options.ALPNProtocols = ["http/1.1"];
      if (isIP(host) === 0) options.servername = host;
      if (policy.ca !== undefined) options.ca = policy.ca;
    }
    this.#socket = secure ? connectTls(options) : connectTcp(options);
    this.#socket.setNoDelay(true);
    this.#connected = new Promise((resolve, reject) => {
      this.#socket.once(secure ? "secureConnect" : "connect", resolve);
      this.#socket.once("close", () => reject(new FetchFailure("the connection ended early", { transient: true })));
      this.#socket.once("error", (error) => reject(networkFailure(error)));
    });
    this.#connected.catch(() => undefined); // `get` tells
    this.#socket.on("error", (error) => this.#settle(networkFailure(error)));
    this.#socket.on("end", () => this.#ended());
    this.#socket.on("close", () => this.#ended());
  }

  get reusable(): boolean {
    return this.#state === "idle" && this.#persistent && !this.#socket.destroyed;
  }

  destroy(): void {
    this.#state = "unusable";
    this.#socket.destroy();
  }

  async get({ url, headers, signal }: GetRequest, receiver: Receiver): Promise<void> {
    this.answered = false;
    const finished = new Promise<void>((resolve, reject) => {
      this.#settle = (error) => {
        this.#settle = () => undefined;
        if (error === undefined) resolve();
        else reject(asError(error));
      };
    });
    finished.catch(() => undefined); // awaited below, unless connecting fails first
    const settle = this.#settle;
    const abort = (): void => settle(signal.reason);
    const watchdog = new Watchdog(settle);
    this.#watchdog = watchdog;
    signal.addEventListener("abort", abort, { once: true });
    try {
      if (this.#socket.connecting) watchdog.expect(this.#policy.connectTimeoutMs, `no connection to ${url.host}`);
      await Promise.race([this.#connected, finished]);
      if (this.#state !== "idle") throw new FetchFailure("the connection ended early", { transient: true });
      this.#receiver = receiver;
      this.#state = "head";
      this.#interim = 0;
      watchdog.expect(this.#policy.headersTimeoutMs, `no answer from ${url.host}`);
      this.#socket.write(requestText(url, { ...commonHeaders(url), ...headers }), "latin1");
      await finished;
    } finally {
      watchdog.stop();
      this.#receiver = null;
      signal.removeEventListener("abort", abort);
    }
  }

  #fail(error: unknown): void {
    this.#state = "unusable";
    this.#settle(error);
    this.#socket.destroy();
  }

  /** The server has closed its side. */
  #ended(): void {
    if (this.#state === "unusable") return;
    this.#fail(new FetchFailure("the connection ended early", { transient: true }));
  }

  #receive(buffer: Buffer, length: number): void {
    let at = 0;
    try {
      this.#watchdogTouch();
      while (at < length) {
        if (this.#state === "head") at = this.#takeHead(buffer.subarray(0, length), at);
        else if (this.#state === "body") at = this.#takeBody(buffer.subarray(0, length), at);
        else if (this.#state === "unusable") return;
        else {
          this.destroy();
          return;
        } // bytes that nobody asked for
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  /** A gap is only a gap in the body: headers have a limit for all of them together. */
  #watchdogTouch(): void {
    this.answered = true;
    if (this.#state === "body") this.#watchdog?.touch();
  }

  #takeHead(bytes: Buffer, from: number): number {
    const before = this.#head.length;
    // Nearly always the whole head comes in one read. Only what lies across two is copied.
    const all = before === 0 ? bytes.subarray(from) : Buffer.concat([this.#head, bytes.subarray(from)]);
    const end = all.indexOf(HEAD_END, Math.max(0, before - HEAD_END.length));
    if ((end < 0 ? all.length : end) > this.#policy.maxHeaderBytes) {
      throw new FetchFailure("the server's headers are too large", { transient: false });
    }
    if (end < 0) {
      this.#head = Buffer.from(all);
      return bytes.length;
    }
    this.#head = NOTHING;
    const next = from + end + HEAD_END.length - before;
    const head = parseHead(all.subarray(0, end));
    if (head === null) throw new Unsuitable("a head that the other parser is to judge");
    if (head.status >= 100 && head.status < 200) {
      if (head.status === 101 || ++this.#interim > MAX_INTERIM) throw new Unsuitable("interim responses");
      return next;
    }
    this.#begin(head);
    return next;
  }

  #begin(head: ResponseHead & { readonly version: string }): void {
    const wanted = head.status === 200 || head.status === 206;
    const length = contentLength(head);
    if (wanted && (length === null || head.headers.has("transfer-encoding"))) throw new Unsuitable("no known length");
    const connection = (head.headers.get("connection") ?? "").toLowerCase();
    this.#persistent = head.version === "1.1" && !connection.includes("close");
    this.#state = "body";
    this.#left = length ?? 0;
    if (this.#receiver?.head(head) !== true || !wanted) {
      this.#enough();
      return;
    }
    this.#watchdog?.expect(this.#policy.gapTimeoutMs, "no byte of the body");
    if (this.#left === 0) this.#complete();
  }

  #takeBody(bytes: Buffer, from: number): number {
    const end = Math.min(bytes.length, from + this.#left);
    this.#left -= end - from;
    if (this.#left === 0 && end < bytes.length) {
      throw new FetchFailure("the server sent more than it had said", { transient: true });
    }
    const more = this.#receiver?.data(bytes.subarray(from, end)) === true;
    if (this.#left === 0) this.#complete();
    else if (!more) this.#enough();
    return end;
  }

  #complete(): void {
    this.#state = "idle";
    this.#settle();
  }

  /** The rest of the body is not wanted: it would have to be read before the connection could be used again. */
  #enough(): void {
    this.#state = "unusable";
    this.#settle();
    this.#socket.destroy();
  }
}

/** The URL class has escaped what could end a line in the path; header values come from here or were checked as they came. */
function requestText(url: URL, headers: Readonly<Record<string, string>>): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `GET ${url.pathname}${url.search} HTTP/1.1\r\n${lines.join("")}\r\n`;
}
