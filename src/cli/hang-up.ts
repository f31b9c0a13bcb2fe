import { constants } from "node:os";
import { fstatSync, writeSync } from "node:fs";

/** The status that a shell gives for a program whose terminal went away. */
export const HUNG_UP = 128 + constants.signals.SIGHUP;

/** A terminal that this program has is gone: even to write nothing to it is an I/O error then. */
export function hasHungUp(): boolean {
  return [0, 1, 2].some((fd) => {
    try {
      if (fstatSync(fd).isCharacterDevice()) writeSync(fd, "");
      return false;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EIO"; // anything else, such as not open for writing, is no news
    }
  });
}

/**
 * Ends the program. Node puts the terminal's settings back as its last act, and aborts when it can't (`ResetStdio` in node.cc);
 * without its terminal the program ends as others do, by the signal that goes with it.
 */
export function exit(status: number): never {
  if (hasHungUp()) {
    process.emit("exit", status); // what is to be done at the end, as process.exit would
    process.removeAllListeners("SIGHUP");
    process.kill(process.pid, "SIGHUP");
  }
  process.exit(status);
}
