import { FetchFailure } from "../failure.js";

/** The first part of a response. */
export interface ResponseHead {
  readonly status: number;
  readonly message: string;
  /** By lower-case name; a header that came several times is joined with ", ". */
  readonly headers: ReadonlyMap<string, string>;
}

/** The bytes that a 206 response says it brings; RFC 9110 section 14.4. Null: the header is missing or wrong. */
export function contentRange(head: ResponseHead): { start: number; end: number; total: number | null } | null {
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/i.exec(head.headers.get("content-range") ?? "");
  if (match === null) return null;
  const [start, last] = [Number(match[1]), Number(match[2])];
  const total = match[3] === "*" ? null : Number(match[3]);
  if (last < start || (total !== null && last >= total)) return null;
  return { start, end: last + 1, total };
}

/** The size of the file that a 416 response tells: "bytes * / SIZE" without the blanks. */
export function unsatisfiedTotal(head: ResponseHead): number | null {
  const match = /^bytes \*\/(\d{1,15})$/i.exec(head.headers.get("content-range") ?? "");
  return match === null ? null : Number(match[1]);
}

/** The length of the body in bytes, or null if the header is missing. */
export function contentLength(head: ResponseHead): number | null {
  const value = head.headers.get("content-length");
  if (value === undefined) return null;
  // RFC 9110 section 8.6: the same number several times is one number; anything else is an error.
  const values = new Set(value.split(",").map((part) => part.trim()));
  const [only] = values;
  if (values.size !== 1 || only === undefined || !/^\d{1,15}$/.test(only)) {
    throw new FetchFailure(`the server sent a wrong Content-Length: ${JSON.stringify(value)}`, { transient: true });
  }
  return Number(only);
}

export function isChunked(head: ResponseHead): boolean {
  return /(^|,)\s*chunked\s*$/i.test(head.headers.get("transfer-encoding") ?? "");
}

/**
 * What a later request can name in If-Range, or null. RFC 9110 section 13.1.5 allows an entity tag that is not weak, and a
 * date of last modification only where the response is at least a second younger (section 8.8.2.2).
 */
export function strongValidator(head: ResponseHead): string | null {
  const tag = head.headers.get("etag");
  if (tag !== undefined) return /^"[\x21\x23-\x7e]{0,500}"$/.test(tag) ? tag : null;
  const modified = head.headers.get("last-modified") ?? "";
  const age = Date.parse(head.headers.get("date") ?? "") - Date.parse(modified);
  return age >= 1000 && /^[\x20-\x7e]{1,64}$/.test(modified) ? modified : null;
}

/**
 * Whether a response is of the version of the file that `validator` stands for; null where it does not tell. A part must tell
 * its entity tag if the whole would have (RFC 9110 section 15.3.7). Dates are compared as text: any other one is another file.
 */
export function isOfVersion(head: ResponseHead, validator: string): boolean | null {
  const told = head.headers.get(validator.startsWith('"') ? "etag" : "last-modified");
  return told === undefined ? null : told === validator;
}

/** How long the server asks to wait, in milliseconds: RFC 9110 section 10.2.3, seconds or a date. */
export function retryAfterMs(head: ResponseHead, now: number): number | null {
  const value = head.headers.get("retry-after");
  if (value === undefined) return null;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}

/** The failure that a status other than success is; RFC 9110 section 15. */
export function statusFailure(head: ResponseHead, now: number): FetchFailure {
  const { status, message } = head;
  const transient = status === 408 || status === 429 || status >= 500;
  return new FetchFailure(`HTTP ${status} ${message}`.trim(), {
    transient,
    status,
    retryAfterMs: transient ? retryAfterMs(head, now) : null,
    hint: statusHint(status),
  });
}

function statusHint(status: number): string | null {
  if (status === 404 || status === 410)
    return "The server has no such file: check the address for mistakes, or use a newer one.";
  if (status === 401)
    return "Put the name and the password that the server asks for into the address: https://name:password@host/…";
  if (status === 403)
    return "The server refuses the file to you: check that the address is complete, with any token or password it takes.";
  return status === 407 ? PROXY_LOGIN_HINT : null;
}

export const PROXY_LOGIN_HINT =
  "The proxy wants a name and a password: put them into HTTPS_PROXY (HTTP_PROXY for http: addresses), as http://name:password@proxy:port.";

const FIELD_NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

/** Reads a response's head, up to and without the empty line. Null if it is not one that HTTP/1.1 allows without doubt. */
export function parseHead(bytes: Buffer): (ResponseHead & { readonly version: "1.0" | "1.1" }) | null {
  const [first = "", ...lines] = bytes.toString("latin1").split("\r\n");
  const match = /^HTTP\/(1\.[01]) (\d{3})(?: ([\t\x20-\x7e\x80-\xff]*))?$/.exec(first);
  if (match === null) return null;
  const headers = new Map<string, string>();
  for (const line of lines) {
    // A name that a blank follows, and a line that begins with one, have been used to smuggle responses.
    const colon = line.indexOf(":");
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (colon < 1 || !FIELD_NAME.test(name) || !FIELD_VALUE.test(value)) return null;
    const earlier = headers.get(name);
    headers.set(name, earlier === undefined ? value : `${earlier}, ${value}`);
  }
  return { version: match[1] as "1.0" | "1.1", status: Number(match[2]), message: match[3] ?? "", headers };
}
