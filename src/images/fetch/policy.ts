const MIB = 1024 * 1024;

/** The limits a transfer keeps. Callers can't change them; tests do, as nobody waits 30 s for a time-out to be seen. */
export interface TransferPolicy {
  /** Name resolution, TCP and TLS together. */
  readonly connectTimeoutMs: number;
  /** From the request until the last header. */
  readonly headersTimeoutMs: number;
  /** Between two pieces of the body. There is no limit for the whole: a slow link is not a broken one. */
  readonly gapTimeoutMs: number;
  /** Failures in a row, without progress between them, after the first that are tried again. */
  readonly retries: number;
  /** The first pause before trying again. It doubles each time, up to `backoffLimitMs`; a part of it is random. */
  readonly backoffMs: number;
  readonly backoffLimitMs: number;
  /** A server that asks (Retry-After) for a longer pause than this is not waited for. */
  readonly retryAfterLimitMs: number;
  readonly maxRedirects: number;
  readonly maxHeaderBytes: number;
  /** Where a body without a known length is cut off. */
  readonly maxBytes: number;
  /** So much data may come out of a compressed asset before its ratio counts. */
  readonly freeDataBytes: number;
  /** From this size on a second thread computes the digest; starting one costs about as much as hashing 40 MiB. */
  readonly workerFromBytes: number;
  /** At most this many connections at once for one file. */
  readonly maxLanes: number;
  /** More connections are tried only for what would take longer than this at the present rate. */
  readonly laneWorthMs: number;
  /** Nor from this rate on, in bytes per second: then it is this machine that limits it. */
  readonly laneMaxRate: number;
  /** How long the rate is observed before the number of connections changes. */
  readonly laneTrialMs: number;
  /** When this thread is busy for more than this part of the time, it is the limit, and not the connections. */
  readonly maxLoad: number;
  /** Whether a transfer has ended only when its bytes are on the disk. False is for comparing it with programs that don't ask. */
  readonly durable: boolean;
  /** "simple" is node:http for everything; "fast" takes the receive buffer of our own where it applies. */
  readonly transport: "fast" | "simple";
  /** Certificates to trust instead of the usual ones, PEM. */
  readonly ca?: string | undefined;
}

export const DEFAULT_POLICY: TransferPolicy = {
  connectTimeoutMs: 20_000,
  headersTimeoutMs: 30_000,
  gapTimeoutMs: 30_000,
  retries: 4,
  backoffMs: 250,
  backoffLimitMs: 8_000,
  retryAfterLimitMs: 60_000,
  maxRedirects: 10,
  maxHeaderBytes: 64 * 1024,
  maxBytes: 64 * 1024 * MIB,
  freeDataBytes: 1024 * MIB,
  workerFromBytes: 64 * MIB,
  maxLanes: 8,
  laneWorthMs: 1_000,
  laneMaxRate: 100_000_000,
  laneTrialMs: 100,
  maxLoad: 0.7,
  durable: true,
  transport: "fast",
};
