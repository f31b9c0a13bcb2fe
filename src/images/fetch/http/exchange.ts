import type { ResponseHead } from "./head.js";

export interface GetRequest {
  readonly url: URL;
  /** By lower-case name. Host, Accept-Encoding and the like are added by the transport. */
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/** Takes a response in. What its functions throw ends the exchange and is what the exchange rejects with. */
export interface Receiver {
  /** Whether the body is wanted. */
  head(head: ResponseHead): boolean;
  /** The next bytes of the body, valid only during the call. False: enough, the rest is not wanted. */
  data(bytes: Buffer): boolean;
}

/** Does one request and one response. */
export interface Transport {
  /**
   * Resolves when the body is whole or the receiver wanted no more. Rejects with a FetchFailure for what the network or the
   * server did, and with the signal's reason.
   */
  get(request: GetRequest, receiver: Receiver): Promise<void>;
  /** Ends what it keeps open. */
  close(): void;
}

/** The headers of every request. `identity`: the digest is of the file's bytes, not of some encoding of them. */
export function commonHeaders(url: URL): Record<string, string> {
  return {
    host: url.host,
    "user-agent": "smolvm",
    accept: "*/*",
    "accept-encoding": "identity",
  };
}

/** The name and password of an address, as a header; RFC 7617. */
export function authorization(url: URL): Record<string, string> {
  if (url.username === "" && url.password === "") return {};
  const credentials = `${decoded(url.username)}:${decoded(url.password)}`;
  return { authorization: `Basic ${Buffer.from(credentials).toString("base64")}` };
}

/** A percent sign that begins no escape is one: people write passwords as they are. */
function decoded(text: string): string {
  return text.replace(/(?:%[0-9a-f]{2})+/gi, (escapes) => {
    try {
      return decodeURIComponent(escapes);
    } catch {
      return escapes; // not UTF-8, so they were meant as they stand
    }
  });
}
