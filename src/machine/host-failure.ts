import { HostError, SmolVMError } from "../errors.js";

/** The error that leaves the library for a failed call to the host's operating system. All others are given back as they are. */
export function hostFailure(error: unknown, doing: string): unknown {
  if (error instanceof SmolVMError || !(error instanceof Error) || !("syscall" in error)) return error;
  const { code } = error as NodeJS.ErrnoException;
  const details = { errno: code };
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
      return new HostError("HOST_NO_SPACE", `${doing} failed: there is no space left.`, {
        hint: "Make room; smolvm image prune and smolvm rm may help.",
        cause: error,
        details,
      });
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return new HostError("HOST_PERMISSION", `${doing} failed: ${error.message}.`, {
        hint: "Use a folder that this user can write to: set SMOLVM_HOME.",
        cause: error,
        details,
      });
    default:
      return new HostError("HOST_IO", `${doing} failed: ${error.message}.`, {
        hint: "Check that what it names is there and can be read; SMOLVM_HOME says where machines are kept.",
        cause: error,
        details,
      });
  }
}
