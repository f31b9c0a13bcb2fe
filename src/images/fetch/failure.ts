import { ImageError } from "../../errors.js";
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

  constructor(
    reason: string,
    options: {
      transient: boolean;
      retryAfterMs?: number | null;
      status?: number | null;
      bomb?: boolean;
      cause?: unknown;
    },
  ) {
    super(reason, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "FetchFailure";
    this.transient = options.transient;
    this.retryAfterMs = options.retryAfterMs ?? null;
    this.status = options.status ?? null;
    this.bomb = options.bomb ?? false;
  }
}

/** What one address did wrong. */
export interface Attempt {
  readonly url: string;
  readonly reason: string;
}

export function downloadFailed(url: string, cause: unknown, earlier: readonly Attempt[]): ImageError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const attempts = [...earlier, { url: withoutCredentials(url), reason }];
  const others = earlier.map((attempt) => `${attempt.url}: ${attempt.reason}`).join("; ");
  return new ImageError("IMAGE_DOWNLOAD_FAILED", `Download failed for ${withoutCredentials(url)}: ${reason}`, {
    ...(others === "" ? {} : { hint: `Other addresses failed before it. ${others}` }),
    details: { url: withoutCredentials(url), reason, attempts },
    cause,
  });
}

export function checksumMismatch(
  url: string,
  expected: string,
  actual: string,
  earlier: readonly Attempt[],
): ImageError {
  const shown = withoutCredentials(url);
  return new ImageError(
    "IMAGE_CHECKSUM_MISMATCH",
    `SHA-256 mismatch for ${shown}\n  expected: ${expected}\n  actual:   ${actual}`,
    {
      hint: "The file at the address is not the one that was pinned. If it was replaced on purpose, update the digest.",
      details: { url: shown, expected, actual, attempts: [...earlier, { url: shown, reason: "SHA-256 mismatch" }] },
    },
  );
}

/** A signal may be aborted with anything; promises are rejected with errors. */
export function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error("aborted", { cause: reason });
}
