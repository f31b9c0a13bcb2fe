import { downloadFailed, FetchFailure } from "../failure.js";
import { DEFAULT_POLICY } from "../policy.js";
import type { Receiver, Transport } from "./exchange.js";
import { statusFailure } from "./head.js";
import { networkFailure } from "./network.js";
import { wholeLength } from "./opening.js";
import { follow, targetOf } from "./redirect.js";
import { pauseAfter } from "./retry.js";
import { openTransport } from "./transport.js";

export interface SmallRequest {
  /** An http: or https: address. */
  readonly url: string;
  readonly maxBytes: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Fetches a file that is worth neither a place on the disk nor going on with: its bytes, or null if it has more than `maxBytes`.
 * Throws ImageError IMAGE_DOWNLOAD_FAILED, or the signal's own reason.
 */
export async function fetchSmall({ url, maxBytes, signal = NEVER }: SmallRequest): Promise<Buffer | null> {
  signal.throwIfAborted();
  const transport = openTransport(DEFAULT_POLICY);
  try {
    for (let failures = 1; ; failures++) {
      try {
        return await fetchOnce(transport, url, maxBytes, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof FetchFailure) || !error.transient) throw error;
        await pauseAfter(error, failures, DEFAULT_POLICY, signal);
      }
    }
  } catch (error) {
    signal.throwIfAborted();
    throw downloadFailed(url, networkFailure(error), [], "Try again later.");
  } finally {
    transport.close();
  }
}

const NEVER = new AbortController().signal;

async function fetchOnce(
  transport: Transport,
  url: string,
  maxBytes: number,
  signal: AbortSignal,
): Promise<Buffer | null> {
  if (!URL.canParse(url)) throw new FetchFailure("it is not a valid address", { transient: false });
  const { maxRedirects } = DEFAULT_POLICY;
  const pieces: Buffer[] = [];
  let announced = 0;
  let received = 0;
  const receiver: Receiver = {
    head(head) {
      if (head.status !== 200) throw statusFailure(head, Date.now());
      announced = wholeLength(head, { pinned: false }) ?? 0;
      return announced <= maxBytes;
    },
    data(bytes) {
      received += bytes.length;
      pieces.push(Buffer.from(bytes));
      return received <= maxBytes;
    },
  };
  await follow(transport, targetOf(url), { headers: {}, signal, maxRedirects, allowDowngrade: false }, receiver);
  return Math.max(announced, received) > maxBytes ? null : Buffer.concat(pieces);
}
