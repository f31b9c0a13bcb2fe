import type { TransferPolicy } from "../policy.js";
import type { GetRequest, Receiver, Transport } from "./exchange.js";
import { FastTransport, Unsuitable } from "./fast.js";
import { proxyFor } from "./proxy.js";

/** The fast transport where it applies, the simple one for everything else. */
export function openTransport(policy: TransferPolicy): Transport {
  return new EitherTransport(policy);
}

class EitherTransport implements Transport {
  readonly #policy: TransferPolicy;
  readonly #fast: FastTransport;
  #simple: Transport | null = null;
  /** Servers that have answered in a way that the fast one does not take. */
  readonly #unsuitable = new Set<string>();

  constructor(policy: TransferPolicy) {
    this.#policy = policy;
    this.#fast = new FastTransport(policy);
  }

  async get(request: GetRequest, receiver: Receiver): Promise<void> {
    const { origin } = request.url;
    const fast = this.#policy.transport === "fast" && !this.#unsuitable.has(origin) && proxyFor(request.url) === null;
    if (fast) {
      try {
        await this.#fast.get(request, receiver);
        return;
      } catch (error) {
        if (!(error instanceof Unsuitable)) throw error;
        this.#unsuitable.add(origin);
      }
    }
    // Loaded only now: node:http and node:https take 20 ms, which most transfers do without.
    const { SimpleTransport } = await import("./simple.js");
    this.#simple ??= new SimpleTransport(this.#policy);
    await this.#simple.get(request, receiver);
  }

  close(): void {
    this.#fast.close();
    this.#simple?.close();
  }
}
