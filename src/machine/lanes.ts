import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Socket } from "node:net";

import { CommandExecutionUnavailableError } from "../errors.js";
import { connectGuest, type GuestConnection } from "../guest/index.js";
import { connectUnix, laneSocket, LANES } from "../hypervisor/index.js";
import { tryClaim, type Claim } from "./claim.js";
import type { MachineFiles } from "./state.js";

/** A lane of the machine's channel in use by this process. */
export interface Lane {
  readonly connection: GuestConnection;
  /** While something is under way the lane keeps this program alive; an idle machine does not. */
  hold(): Disposable;
  /** Ends the connection and frees the lane. */
  close(): Promise<void>;
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
  const claim = await tryClaim(join(files.lanes, "0"));
  if (claim === null) throw new CommandExecutionUnavailableError("The machine's first lane is in use.");
  for (;;) {
    options.signal?.throwIfAborted();
    const left = Math.max(1, deadline - Date.now());
    try {
      const socket = await connectUnix(files.sockets, laneSocket(0), { timeoutMs: left, signal: options.signal });
      return await talk(socket, claim, { ...options, timeoutMs: left });
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if ((code !== "ENOENT" && code !== "ECONNREFUSED") || Date.now() > deadline) {
        await claim.release();
        throw error;
      }
      await sleep(CONNECT_POLL_MS);
    }
  }
}

/**
 * Opens a lane of a running machine that no other process uses.
 *
 * @throws CommandExecutionUnavailableError when all are in use, or none answers.
 */
export async function openFreeLane(files: MachineFiles, options: LaneOptions): Promise<Lane> {
  for (let lane = 1; lane < LANES; lane++) {
    const claim = await tryClaim(join(files.lanes, String(lane)));
    if (claim === null) continue;
    try {
      return await talk(await connectUnix(files.sockets, laneSocket(lane), options), claim, options);
    } catch (error) {
      await claim.release();
      options.signal?.throwIfAborted();
      throw new CommandExecutionUnavailableError("The machine does not answer.", { cause: error });
    }
  }
  throw new CommandExecutionUnavailableError(
    `${LANES - 1} connections to this machine are in use, which is the most.`,
    {
      hint: "Close one of them, or end the program that has it.",
    },
  );
}

async function talk(socket: Socket, claim: Claim, options: LaneOptions): Promise<Lane> {
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
    async close() {
      connection.close();
      socket.destroy();
      await claim.release();
    },
  };
}
