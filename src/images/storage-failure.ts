import { HostError, SmolVMError } from "../errors.js";
import { isErrno } from "../host/errno.js";
import { noSpace } from "./free-space.js";

/** What a file system answers when something may not be written there. */
export const NOT_WRITABLE = ["EROFS", "EACCES", "EPERM"] as const;

/**
 * Turns what the operating system said about the cache into the error for the caller. Errors of the library and the
 * caller's own abort reason pass through as they are.
 */
export function storageFailure(error: unknown, cacheDir: string): unknown {
  if (error instanceof SmolVMError || !isErrno(error)) return error;
  if (isErrno(error, "ENOSPC", "EDQUOT")) return noSpace(cacheDir, { cause: error });
  const permission = isErrno(error, ...NOT_WRITABLE);
  return new HostError(
    permission ? "HOST_PERMISSION" : "HOST_IO",
    `The image cache '${cacheDir}' can't be used: ${error.message}.`,
    {
      hint: permission
        ? "Make the folder readable and writable for this user, or choose another one with SMOLVM_IMAGE_DIR."
        : "Check that the path is a folder on a working disk, or choose another one with SMOLVM_IMAGE_DIR.",
      details: { cacheDir, errno: error.code, path: error.path },
      cause: error,
    },
  );
}

/**
 * What leaves the library: its own errors and the caller's abort reason as they are, what the system refused as an error that
 * names the cache, and whatever nobody foresaw as one that says so.
 */
export function failureAtEdge(error: unknown, cacheDir: string, signal: AbortSignal | undefined): unknown {
  const known = storageFailure(error, cacheDir);
  if (known instanceof SmolVMError || (signal?.aborted && error === signal.reason)) return known;
  if (signal?.aborted && error instanceof Error && error.name === "AbortError") return signal.reason;
  const what = error instanceof Error ? error.message : String(error);
  return new SmolVMError("INTERNAL", `The work on the image cache '${cacheDir}' failed: ${what}.`, {
    hint: "This is a defect of smolvm, or the host is short of memory. Please report it with its cause.",
    details: { cacheDir },
    cause: error,
  });
}
