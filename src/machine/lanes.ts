import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Socket } from "node:net";

import { CommandExecutionUnavailableError } from "../errors.js";
import { connectGuest, type GuestConnection } from "../guest/index.js";
import { isErrno } from "../host/errno.js";
import { tryLock, type Lock } from "../host/lock.js";
import { connectUnix, laneSocket, LANES } from "../hypervisor/index.js";
import type { MachineFiles } from "./state.js";

/** A lane of the machine's channel in use by this process. */
export interface Lane {
  readonly connection: GuestConnection;
  /** While something is under way the lane keeps this program alive; an idle machine does not. */
  hold(): Disposable;
  /** Ends the connection and frees the lane. */
  close(): void;
}

const CONNECT_POLL_MS = 4;

export interface LaneOptions {
  /** Time for all of it. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** Called when QEMU has taken the connection; the guest has not answered yet. */
  readonly onConnected?: (() => void) | undefined;
  /** Called at the first byte from the guest. */
  readonly onAnswer?: (() => void) | undefined;
}

/** Opens the owner's lane, number 0, of a QEMU that has just been started and may not have made its sockets yet. */
export async function openOwnLane(files: MachineFiles, options: LaneOptions): Promise<Lane> {
  const deadline = Date.now() + options.timeoutMs;
  // Whoever has a lane of an earlier run has nothing in it any more, and may be where it can't be looked at.
  await rm(files.lanes, { recursive: true, force: true });
  await mkdir(files.lanes, { mode: 0o700 });
  const lock = await tryLock(join(files.lanes, "0"), options.signal);
  if (lock === null)
    throw new CommandExecutionUnavailableError("The machine's first lane is in use.", {
      hint: "Another program starts this machine at the same time: wait for it.",
    });
  try {
    for (;;) {
      options.signal?.throwIfAborted();
      const left = Math.max(1, deadline - Date.now());
      try {
        const socket = await connectUnix(files.sockets, laneSocket(0), { timeoutMs: left, signal: options.signal });
        return await talk(socket, lock, { ...options, timeoutMs: left });
      } catch (error) {
        if (!isErrno(error, "ENOENT", "ECONNREFUSED") || Date.now() > deadline) throw error;
      }
      await sleep(CONNECT_POLL_MS);
    }
  } catch (error) {
    lock.release();
    throw error;
  }
}

/**
 * Opens a lane of a running machine that no other process uses.
 *
 * @throws CommandExecutionUnavailableError when all are in use, or none answers.
 */
export async function openFreeLane(files: MachineFiles, options: LaneOptions): Promise<Lane> {
  for (let lane = 1; lane < LANES; lane++) {
    const lock = await tryLock(join(files.lanes, String(lane)), options.signal);
    if (lock === null) continue;
    try {
      return await talk(await connectUnix(files.sockets, laneSocket(lane), options), lock, options);
    } catch (error) {
      lock.release();
      options.signal?.throwIfAborted();
      throw new CommandExecutionUnavailableError("The machine does not answer.", {
        hint: "Its guest hangs or is very busy: try again, or stop it.",
        cause: error,
      });
    }
  }
  throw new CommandExecutionUnavailableError(
    `${LANES - 1} connections to this machine are in use, which is the most.`,
    {
      hint: "Close one of them, or end the program that has it.",
    },
  );
}

async function talk(socket: Socket, lock: Lock, options: LaneOptions): Promise<Lane> {
  options.onConnected?.();
  if (options.onAnswer !== undefined) socket.once("readable", options.onAnswer);
  const connection = await connectGuest(socket, { timeoutMs: options.timeoutMs, signal: options.signal }).catch(
    (error: unknown) => {
      socket.destroy();
      throw error;
    },
  );
  let held = 0;
  socket.unref();
  return {
    connection,
    hold() {
      if (held++ === 0) socket.ref();
      let done = false;
      return {
        [Symbol.dispose]() {
          if (done) return;
          done = true;
          if (--held === 0) socket.unref();
        },
      };
    },
    close() {
      connection.close();
      socket.destroy();
      lock.release();
    },
  };
}
