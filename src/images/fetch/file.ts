import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";

import { Appender } from "./appender.js";
import { FetchFailure } from "./failure.js";
import type { Job } from "./scheme.js";

const READ_SIZE = 1024 * 1024;
const NOT_A_FILE_HINT = "Name a file: folders, pipes and devices can't be an image's kernel or disk.";

/** `file:` addresses: a file of this machine, copied as it would be from a server, holes and digest included. */
export async function fetchFile({ url, file, signal, onBytes }: Job): Promise<void> {
  // Without waiting: opening a pipe would otherwise last until somebody writes to it.
  const source = await open(new URL(url), constants.O_RDONLY | constants.O_NONBLOCK).catch(unreadable);
  try {
    const before = await stamp(source);
    if (file.covered > 0 && file.isFrom(url) && file.validator === before.validator) file.resume({ url, ...before });
    else file.restart({ url, ...before });
    const buffer = Buffer.allocUnsafeSlow(READ_SIZE);
    for (const [start, end] of file.missing()) {
      const appender = new Appender(file, start);
      for (let at = start; at < end;) {
        signal.throwIfAborted();
        const { bytesRead } = await source.read(buffer, 0, Math.min(READ_SIZE, end - at), at).catch(unreadable);
        if (bytesRead === 0) throw new FetchFailure("the file became shorter while it was read", { transient: false });
        appender.push(buffer.subarray(0, bytesRead));
        file.fetchedBytes += bytesRead;
        at += bytesRead;
        onBytes();
      }
      appender.end();
    }
    if ((await stamp(source)).validator !== before.validator) {
      throw new FetchFailure("the file changed while it was read", { transient: false });
    }
  } finally {
    await source.close();
  }
}

/** What tells one state of a file from another, and its size. */
async function stamp(source: FileHandle): Promise<{ validator: string; total: number }> {
  const stat = await source.stat({ bigint: true });
  if (!stat.isFile()) throw new FetchFailure("it is not a regular file", { transient: false, hint: NOT_A_FILE_HINT });
  return { validator: [stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join("-"), total: Number(stat.size) };
}

/** Kept apart from errors of the file that is written: this one is the address's fault. */
function unreadable(error: unknown): never {
  const reason = error instanceof Error ? error.message : String(error);
  const hint = "Check that the path is that of a file which this user can read.";
  throw new FetchFailure(reason, { transient: false, hint, cause: error });
}
