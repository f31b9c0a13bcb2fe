import { HostError, ImageError, SmolVMError } from "../../errors.js";
import { withoutCredentials } from "../address.js";

/** Why one attempt to bring the bytes failed. It stays inside this folder: `downloadFailed` makes of it what leaves. */
export class FetchFailure extends Error {
  /** Whether asking again can help. */
  readonly transient: boolean;
  /** How long the server asked to wait, in milliseconds. */
  readonly retryAfterMs: number | null;
  readonly status: number | null;
  /** Whether unpacking was stopped at a limit, which is never to be forgiven. */
  readonly bomb: boolean;
  /** What the user can do about it. */
  readonly hint: string | null;

  constructor(
    reason: string,
    options: {
      transient: boolean;
      retryAfterMs?: number | null;
      status?: number | null;
      bomb?: boolean;
      hint?: string | null;
      cause?: unknown;
    },
  ) {
    super(reason, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "FetchFailure";
    this.transient = options.transient;
    this.retryAfterMs = options.retryAfterMs ?? null;
    this.status = options.status ?? null;
    this.bomb = options.bomb ?? false;
    this.hint = options.hint ?? (options.cause instanceof FetchFailure ? options.cause.hint : null);
  }
}

/** What one address did wrong. */
export interface Attempt {
  readonly url: string;
  readonly reason: string;
}

/** `Download failed for URL: REASON`. What other addresses did wrong before is in `details.attempts`. */
export function downloadFailed(
  url: string,
  cause: FetchFailure,
  earlier: readonly Attempt[],
  later = "Try again later: what was fetched is kept and gone on with.",
): ImageError {
  const [shown, reason] = [withoutCredentials(url), cause.message];
  const retry = cause.transient ? later : undefined;
  return new ImageError("IMAGE_DOWNLOAD_FAILED", `Download failed for ${shown}: ${reason}`, {
    hint: cause.hint ?? retry,
    details: { url: shown, reason, status: cause.status, attempts: [...earlier, { url: shown, reason }] },
    cause,
  });
}

export interface Mismatch {
  readonly url: string;
  readonly expected: string;
  readonly actual: string;
  /** Whether `expected` is only what the address served before. */
  readonly remembered: boolean;
}

export function checksumMismatch(mismatch: Mismatch, attempts: readonly Attempt[]): ImageError {
  const { expected, actual, remembered } = mismatch;
  const url = withoutCredentials(mismatch.url);
  return new ImageError(
    "IMAGE_CHECKSUM_MISMATCH",
    `SHA-256 mismatch for ${url}\n  expected: ${expected}\n  actual:   ${actual}`,
    {
      hint: remembered
        ? "The mirror has other bytes than were served before, and the address itself could not be asked. Pin the digest, or try again without the mirror."
        : "The file at the address is not the one that was pinned. If it was replaced on purpose, update the digest.",
      details: { url, expected, actual, attempts },
    },
  );
}

/** What leaves a transfer is of the library: anything that nobody foresaw is told as a failure of this machine. */
export function asHostError(error: unknown, partial: string): Error {
  if (error instanceof SmolVMError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new HostError("HOST_IO", `The download to '${partial}' failed on this machine: ${reason}`, {
    details: { path: partial, reason },
    cause: error,
  });
}

/** A signal may be aborted with anything; promises are rejected with errors. */
export function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error("aborted", { cause: reason });
}
