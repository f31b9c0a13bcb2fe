import { HostError, SmolVMError } from "../errors.js";
import { printableNote } from "../printable.js";

/** Two paths of the longest kind that people make, and what the system says of them. */
const LONGEST_MESSAGE = 1024;

/** The error that leaves the library for a failed call to the host's operating system. All others are given back as they are. */
export function hostFailure(error: unknown, doing: string): unknown {
  if (error instanceof SmolVMError || !(error instanceof Error) || !("syscall" in error)) return error;
  const { code } = error as NodeJS.ErrnoException;
  const details = { errno: code };
  // A path in it may have a name of the guest's.
  const message = printableNote(error.message, LONGEST_MESSAGE);
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
      return new HostError("HOST_PERMISSION", `${doing} failed: ${message}.`, {
        hint: "Use a folder that this user can write to: set SMOLVM_HOME.",
        cause: error,
        details,
      });
    default:
      return new HostError("HOST_IO", `${doing} failed: ${message}.`, {
        hint: "Check that what it names is there and can be read; SMOLVM_HOME says where machines are kept.",
        cause: error,
        details,
      });
  }
}
