import { FetchFailure } from "../failure.js";
import { authorization, type Receiver, type Transport } from "./exchange.js";
import type { ResponseHead } from "./head.js";

/** An address to ask, and the credentials that are meant for it. */
export interface Target {
  readonly url: URL;
  readonly credentials: Readonly<Record<string, string>>;
}

export function targetOf(address: string): Target {
  const url = new URL(address);
  const credentials = authorization(url);
  url.username = "";
  url.password = "";
  url.hash = "";
  return { url, credentials };
}

export interface FollowOptions {
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  readonly maxRedirects: number;
  /** Whether a redirect from https to http may be followed: only where a digest judges the bytes. */
  readonly allowDowngrade: boolean;
}

/** One GET, through however many redirects. `onTarget` gets the address that answers, just before the receiver its head. */
export async function follow(
  transport: Transport,
  first: Target,
  options: FollowOptions,
  receiver: Receiver,
  onTarget: (target: Target) => void = () => undefined,
): Promise<void> {
  const seen = new Set<string>();
  let target = first;
  for (;;) {
    seen.add(target.url.href);
    let location = null as string | null;
    const asked = target;
    await transport.get(
      { url: asked.url, headers: { ...options.headers, ...asked.credentials }, signal: options.signal },
      {
        head: (head) => {
          location = redirection(head);
          if (location !== null) return false;
          onTarget(asked);
          return receiver.head(head);
        },
        data: (bytes) => receiver.data(bytes),
      },
    );
    if (location === null) return;
    target = next(asked, location, options);
    if (seen.has(target.url.href)) throw final(`redirects in a circle to ${target.url.href}`);
    if (seen.size > options.maxRedirects) throw final(`more than ${options.maxRedirects} redirects`);
  }
}

/** RFC 9110 section 15.4; 304 and the unused codes are not redirects. */
function redirection({ status, headers }: ResponseHead): string | null {
  return [301, 302, 303, 307, 308].includes(status) ? (headers.get("location") ?? null) : null;
}

function next(from: Target, location: string, options: FollowOptions): Target {
  // Servers send names in UTF-8 although headers are Latin-1.
  const text = Buffer.from(location, "latin1").toString("utf8");
  if (!URL.canParse(text, from.url.href)) throw final("redirected to something that is not an address");
  const to = targetOf(new URL(text, from.url).href);
  if (to.url.protocol !== "https:" && to.url.protocol !== "http:") {
    throw final(`redirected to an address of the kind '${to.url.protocol}'`);
  }
  if (from.url.protocol === "https:" && to.url.protocol === "http:" && !options.allowDowngrade) {
    throw final(`redirected from https to ${to.url.href}, and no digest is pinned that would show a change on the way`);
  }
  const same = to.url.origin === from.url.origin && Object.keys(to.credentials).length === 0;
  return same ? { url: to.url, credentials: from.credentials } : to;
}

function final(reason: string): FetchFailure {
  return new FetchFailure(reason, { transient: false });
}
