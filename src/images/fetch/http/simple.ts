import * as http from "node:http";
import * as https from "node:https";
import { isIP, type Socket } from "node:net";
import * as tls from "node:tls";

import { asError, FetchFailure } from "../failure.js";
import type { TransferPolicy } from "../policy.js";
import { authorization, commonHeaders, type GetRequest, type Receiver, type Transport } from "./exchange.js";
import { PROXY_LOGIN_HINT } from "./head.js";
import { networkFailure } from "./network.js";
import { proxyFor } from "./proxy.js";
import { Watchdog } from "./watchdog.js";

/** Over node:http and node:https: whatever HTTP/1.1 allows, and through a proxy where the environment names one. */
export class SimpleTransport implements Transport {
  readonly #policy: TransferPolicy;
  readonly #http = new http.Agent({ keepAlive: true });
  readonly #https: https.Agent;

  constructor(policy: TransferPolicy) {
    this.#policy = policy;
    this.#https = new https.Agent({ keepAlive: true, ...(policy.ca === undefined ? {} : { ca: policy.ca }) });
  }

  close(): void {
    this.#http.destroy();
    this.#https.destroy();
  }

  async get(request: GetRequest, receiver: Receiver): Promise<void> {
    request.signal.throwIfAborted();
    const { url } = request;
    const proxy = proxyFor(url);
    const headers: Record<string, string> = { ...commonHeaders(url), ...request.headers };
    const options: https.RequestOptions = {
      headers,
      maxHeaderSize: this.#policy.maxHeaderBytes,
    };
    if (proxy !== null && url.protocol === "http:") {
      // The proxy gets the whole address in the request line; RFC 9112 section 3.2.2.
      const through = { ...headers, ...proxyAuthorization(proxy) };
      const secure = proxy.protocol === "https:";
      const target = {
        ...addressOf(proxy),
        path: bare(url),
        headers: through,
        agent: secure ? this.#https : this.#http,
      };
      await this.#exchange((secure ? https : http).request({ ...options, ...target }), request, receiver);
      return;
    }
    const tunnel = proxy === null ? null : await this.#tunnel(proxy, url, request.signal);
    const target = { ...addressOf(url), path: url.pathname + url.search };
    const made =
      url.protocol === "http:"
        ? http.request({ ...options, ...target, agent: this.#http })
        : https.request({
            ...options,
            ...target,
            ...(tunnel === null ? { agent: this.#https } : this.#inside(tunnel, url)),
          });
    await this.#exchange(made, request, receiver);
  }

  /** TLS to the server through a proxy's tunnel. */
  #inside(socket: Socket, url: URL): https.RequestOptions {
    const { ca } = this.#policy;
    return {
      // Given instead of an agent: with one, whichever, it would not be asked.
      createConnection: () =>
        tls.connect({
          socket,
          host: addressOf(url).host,
          ...serverName(url),
          ALPNProtocols: ["http/1.1"],
          ...(ca === undefined ? {} : { ca }),
        }),
    };
  }

  /** A connection to the server of `url` that the proxy passes through unread; RFC 9110 section 9.3.6. */
  #tunnel(proxy: URL, url: URL, signal: AbortSignal): Promise<Socket> {
    const authority = `${url.hostname}:${url.port || 443}`;
    const secure = proxy.protocol === "https:";
    const request = (secure ? https : http).request({
      ...addressOf(proxy),
      method: "CONNECT",
      path: authority,
      headers: { host: authority, ...proxyAuthorization(proxy) },
      agent: false,
      signal,
      ...(this.#policy.ca === undefined ? {} : { ca: this.#policy.ca }),
    });
    return new Promise<Socket>((resolve, reject) => {
      const watchdog = new Watchdog((failure) => {
        reject(failure);
        request.destroy();
      });
      watchdog.expect(this.#policy.connectTimeoutMs, `the proxy ${proxy.host} did not connect`);
      request.once("close", () => watchdog.stop());
      request.once("error", (error) => {
        reject(signal.aborted ? asError(signal.reason) : networkFailure(error, `the proxy ${proxy.host}: `));
      });
      request.once("response", (response) => {
        response.destroy();
        reject(refusedByProxy(proxy, response.statusCode ?? 0));
      });
      request.once("connect", (response, socket) => {
        watchdog.stop();
        const { statusCode = 0 } = response;
        if (statusCode >= 200 && statusCode < 300) resolve(socket);
        else {
          socket.destroy();
          reject(refusedByProxy(proxy, statusCode));
        }
      });
      request.end();
    });
  }

  #exchange(request: http.ClientRequest, { signal, url }: GetRequest, receiver: Receiver): Promise<void> {
    const policy = this.#policy;
    return new Promise<void>((resolve, reject) => {
      let settled = false;
      const end = (error?: unknown): void => {
        if (settled) return;
        settled = true;
        watchdog.stop();
        signal.removeEventListener("abort", abort);
        if (error === undefined) resolve();
        else {
          request.destroy();
          reject(asError(error));
        }
      };
      const watchdog = new Watchdog(end);
      const abort = (): void => end(signal.reason);
      signal.addEventListener("abort", abort, { once: true });
      if (signal.aborted) {
        abort();
        return;
      }

      watchdog.expect(policy.connectTimeoutMs, `no connection to ${url.host}`);
      const connected = (): void => watchdog.expect(policy.headersTimeoutMs, `no answer from ${url.host}`);
      request.once("socket", (socket) => {
        if (!socket.connecting) connected();
        else socket.once(socket instanceof tls.TLSSocket ? "secureConnect" : "connect", connected);
      });
      request.on("error", (error) => end(networkFailure(error)));
      request.once("upgrade", () => end(new FetchFailure("the server changed the protocol", { transient: false })));
      request.once("response", (response) => {
        watchdog.expect(policy.gapTimeoutMs, "no byte of the body");
        const enough = (): void => {
          end();
          request.destroy();
        };
        response.on("error", (error) => end(networkFailure(error)));
        response.once("close", () => {
          if (response.complete) end();
          else end(new FetchFailure("the connection ended early", { transient: true }));
        });
        try {
          if (!receiver.head(headOf(response))) {
            enough();
            return;
          }
        } catch (error) {
          end(error);
          return;
        }
        response.on("data", (bytes: Buffer) => {
          if (settled) return;
          watchdog.touch();
          try {
            if (!receiver.data(bytes)) enough();
          } catch (error) {
            end(error);
          }
        });
      });
      request.end();
    });
  }
}

function headOf(response: http.IncomingMessage): { status: number; message: string; headers: Map<string, string> } {
  const headers = new Map<string, string>();
  for (let i = 0; i < response.rawHeaders.length; i += 2) {
    const name = (response.rawHeaders[i] ?? "").toLowerCase();
    const earlier = headers.get(name);
    const value = response.rawHeaders[i + 1] ?? "";
    headers.set(name, earlier === undefined ? value : `${earlier}, ${value}`);
  }
  return { status: response.statusCode ?? 0, message: response.statusMessage ?? "", headers };
}

function addressOf(url: URL): { host: string; port: number } {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return { host, port: Number(url.port || (url.protocol === "https:" ? 443 : 80)) };
}

/** The name to ask for in the TLS handshake; addresses are not asked for by name (RFC 6066 section 3). */
function serverName(url: URL): { servername?: string } {
  const { host } = addressOf(url);
  return isIP(host) === 0 ? { servername: host } : {};
}

/** The address without the parts that are not for the server to see. */
function bare(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}${url.search}`;
}

function proxyAuthorization(proxy: URL): Record<string, string> {
  const { authorization: value } = authorization(proxy);
  return value === undefined ? {} : { "proxy-authorization": value };
}

function refusedByProxy(proxy: URL, status: number): FetchFailure {
  return new FetchFailure(`the proxy ${proxy.host} refused with HTTP ${status}`, {
    transient: status >= 500,
    status,
    hint:
      status === 407
        ? PROXY_LOGIN_HINT
        : "Ask who runs the proxy, set another one in HTTPS_PROXY, or except the host with NO_PROXY.",
  });
}
