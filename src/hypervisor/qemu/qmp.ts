import type { Socket } from "node:net";

import { HostError, OperationTimeoutError, SmolVMError } from "../../errors.js";
import { isObject } from "../../json.js";
import { connectUnix } from "../socket.js";

/** Longer lines than this are not QEMU's: what is asked here is answered in a few hundred bytes. */
const LINE_LIMIT = 1024 * 1024;

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * One short conversation with QEMU's monitor (docs/interop/qmp-spec.txt). A monitor serves one client at a time, so a
 * conversation is opened, used and closed at once: others wait their turn in the socket's queue.
 * What comes back is not trusted: lines are bounded, unknown ids and events are passed over.
 */
class QmpConversation {
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #buffered = "";
  #nextId = 1;
  #failure: Error | null = null;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => this.#receive(text));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("QEMU closed its monitor")));
  }

  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, id, ...(args ? { arguments: args } : {}) })}\n`);
    });
  }

  fail(error: Error): void {
    this.#fail(error);
  }

  #receive(text: string): void {
    this.#buffered += text;
    for (let end = this.#buffered.indexOf("\n"); end !== -1; end = this.#buffered.indexOf("\n")) {
      const line = this.#buffered.slice(0, end);
      this.#buffered = this.#buffered.slice(end + 1);
      this.#answer(line);
    }
    if (this.#buffered.length > LINE_LIMIT) this.#fail(new Error("QEMU's monitor sent an endless line"));
  }

  #answer(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch (error) {
      this.#fail(new Error("QEMU's monitor sent a line that is no JSON", { cause: error }));
      return;
    }
    if (!isObject(message) || typeof message["id"] !== "number") return; // the greeting or an event
    const pending = this.#pending.get(message["id"]);
    this.#pending.delete(message["id"]);
    if (pending === undefined) return;
    const error = message["error"];
    if (isObject(error)) pending.reject(refused(error["desc"]));
    else pending.resolve(message["return"]);
  }

  #fail(error: Error): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    this.#socket.destroy();
  }
}

const ENDING = "The machine may just be ending: look with smolvm ls, and at qemu.log in its folder.";

function refused(description: unknown): HostError {
  return new HostError("HOST_IO", `QEMU refused: ${String(description)}`, {
    hint: "Stop the machine and start it again; qemu.log in its folder may say more.",
  });
}

export interface Qmp {
  execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown>;
}

/**
 * Opens the monitor at `folder/name`, hands it to `talk` and closes it. All of it must be over within `timeoutMs`.
 *
 * @throws HostError HOST_IO when the monitor can't be reached, refuses or breaks off; OperationTimeoutError at the deadline.
 */
export async function withQmp<T>(
  place: { readonly folder: string; readonly name: string },
  timeoutMs: number,
  talk: (qmp: Qmp) => Promise<T>,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  const socket = await connectUnix(place.folder, place.name, { timeoutMs }).catch((error: unknown) => {
    throw new HostError("HOST_IO", "QEMU's monitor can't be reached.", { hint: ENDING, cause: error });
  });
  const conversation = new QmpConversation(socket);
  const timer = setTimeout(
    () => conversation.fail(new OperationTimeoutError("A command to QEMU's monitor", timeoutMs, { hint: ENDING })),
    Math.max(0, deadline - Date.now()),
  );
  try {
    await conversation.execute("qmp_capabilities");
    return await talk(conversation);
  } catch (error) {
    if (error instanceof SmolVMError) throw error;
    throw new HostError("HOST_IO", "QEMU's monitor broke off.", { hint: ENDING, cause: error });
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}
