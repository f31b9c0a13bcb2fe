import type { AgentInfo, GuestConnection } from "../guest/index.js";
import type { Lane } from "./lanes.js";

/** The way into a running machine: one lane at most, and why there is none. */
export class Channel {
  readonly #onLost: (reason: Error) => Promise<void>;
  #lane: Lane | null = null;
  #failure: Error | null = null;

  /** @param onLost called when the guest's side ends the connection, whatever the reason. */
  constructor(onLost: (reason: Error) => Promise<void>) {
    this.#onLost = onLost;
  }

  get lane(): Lane | null {
    return this.#lane;
  }

  get connection(): GuestConnection | null {
    return this.#lane?.connection ?? null;
  }

  /** What the guest's agent has said of itself, while there is a connection. */
  get agent(): AgentInfo | undefined {
    return this.#lane?.connection.agent;
  }

  /** Why there is no connection, if there was one or it was tried. */
  get failure(): Error | null {
    return this.#failure;
  }

  use(lane: Lane): void {
    this.#lane = lane;
    this.#failure = null;
    const ended = lane.connection.closed.then(async (reason) => {
      if (this.#lane !== lane) return; // closed from here
      this.#failure = reason;
      this.drop();
      await this.#onLost(reason);
    });
    ended.catch(() => undefined); // nobody waits for this, and the next call finds the same machine
  }

  failed(reason: Error): void {
    this.#failure = reason;
  }

  drop(): void {
    const lane = this.#lane;
    this.#lane = null;
    lane?.close();
  }

  /** An idle machine doesn't keep the program alive; one that is held does. */
  hold(): Disposable {
    return this.#lane?.hold() ?? { [Symbol.dispose]: () => undefined };
  }
}
