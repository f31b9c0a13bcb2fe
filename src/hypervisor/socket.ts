import { close as closeDescriptor, open as openDescriptor } from "node:fs";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { connect as connectSocket, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { OperationTimeoutError } from "../errors.js";

/** sockaddr_un has 108 bytes on Linux and 104 on macOS, with the closing NUL. */
const PATH_LIMIT = process.platform === "linux" ? 107 : 103;

export interface ConnectOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Nothing is read: the connection is for another process to use. Default false. */
  readonly paused?: boolean;
}

/**
 * Connects to a unix socket in a folder of any depth. A path that doesn't fit a socket address is reached through an open
 * descriptor of its folder, or where there is no /proc through a short symbolic link.
 */
export async function connectUnix(folder: string, name: string, options: ConnectOptions): Promise<Socket> {
  options.signal?.throwIfAborted();
  const path = join(folder, name);
  if (Buffer.byteLength(path) <= PATH_LIMIT) return attempt(path, options);
  if (process.platform === "linux") {
    const descriptor = await promisify(openDescriptor)(folder, "r");
    try {
      return await attempt(`/proc/self/fd/${descriptor}/${name}`, options);
    } finally {
      await promisify(closeDescriptor)(descriptor);
    }
  }
  const short = await mkdtemp(join(tmpdir(), "smolvm-"));
  try {
    await symlink(folder, join(short, "d"));
    return await attempt(join(short, "d", name), options);
  } finally {
    await rm(short, { recursive: true, force: true });
  }
}

/** Failures of a socket that is connected are told to whoever listens by then; until then they must not end the program. */
const unheard = (): void => undefined;

function attempt(path: string, { timeoutMs, signal, paused }: ConnectOptions): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({ path });
    socket.on("error", unheard);
    if (paused === true) socket.pause();
    const settle = (error: unknown): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      socket.off("connect", connected).off("error", settle);
      if (error === undefined) {
        resolve(socket);
      } else {
        socket.destroy();
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- an abort reason is the caller's own
        reject(error);
      }
    };
    const timer = setTimeout(
      () => settle(new OperationTimeoutError("Connecting to the machine", timeoutMs)),
      timeoutMs,
    );
    const connected = (): void => settle(undefined);
    const aborted = (): void => settle(signal?.reason);
    signal?.addEventListener("abort", aborted, { once: true });
    socket.once("connect", connected);
    socket.once("error", settle);
  });
}
