import { HostError, ImageError } from "../../errors.js";

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

/** A URL as it may be shown: without a user name and a password. */
export function displayUrl(url: string): string {
  if (!url.includes("@") || !URL.canParse(url)) return url;
  const shown = new URL(url);
  if (shown.username === "" && shown.password === "") return url;
  shown.username = "";
  shown.password = "";
  return shown.href;
}

export function downloadFailed(url: string, cause: unknown, earlier: readonly Attempt[]): ImageError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const attempts = [...earlier, { url: displayUrl(url), reason }];
  const others = earlier.map((attempt) => `${attempt.url}: ${attempt.reason}`).join("; ");
  return new ImageError("IMAGE_DOWNLOAD_FAILED", `Download failed for ${displayUrl(url)}: ${reason}`, {
    ...(others === "" ? {} : { hint: `Other addresses failed before it. ${others}` }),
    details: { url: displayUrl(url), reason, attempts },
    cause,
  });
}

export function checksumMismatch(
  url: string,
  expected: string,
  actual: string,
  earlier: readonly Attempt[],
): ImageError {
  const shown = displayUrl(url);
  return new ImageError(
    "IMAGE_CHECKSUM_MISMATCH",
    `SHA-256 mismatch for ${shown}\n  expected: ${expected}\n  actual:   ${actual}`,
    {
      hint: "The file at the address is not the one that was pinned. If it was replaced on purpose, update the digest.",
      details: { url: shown, expected, actual, attempts: [...earlier, { url: shown, reason: "SHA-256 mismatch" }] },
    },
  );
}

/** What the file system refused, as an error for the caller: null if `error` is not of the file system. */
export function storageError(error: unknown, path: string): ImageError | HostError | null {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (!(error instanceof Error) || code === undefined || syscall === undefined) return null;
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
      return new ImageError("IMAGE_NO_SPACE", `No space left for '${path}'.`, {
        hint: "Free some space (smolvm image prune), or choose another folder with SMOLVM_IMAGE_DIR.",
        details: { path },
        cause: error,
      });
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new HostError("HOST_PERMISSION", `'${path}' can't be written: ${error.message}.`, {
        hint: "Make the folder writable, or choose another one with SMOLVM_IMAGE_DIR.",
        details: { path, errno: code },
        cause: error,
      });
    default:
      return new HostError("HOST_IO", `'${path}' can't be written: ${error.message}.`, {
        details: { path, errno: code },
        cause: error,
      });
  }
}

/** A signal may be aborted with anything; promises are rejected with errors. */
export function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error("aborted", { cause: reason });
}
