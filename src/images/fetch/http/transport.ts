import type { TransferPolicy } from "../policy.js";
import type { GetRequest, Receiver, Transport } from "./exchange.js";
import { FastTransport, Unsuitable } from "./fast.js";
import { proxyFor } from "./proxy.js";
import { SimpleTransport } from "./simple.js";

/** The fast transport where it applies, the simple one for everything else. */
export function openTransport(policy: TransferPolicy): Transport {
  return policy.transport === "simple" ? new SimpleTransport(policy) : new EitherTransport(policy);
}

class EitherTransport implements Transport {
  readonly #fast: FastTransport;
  readonly #simple: SimpleTransport;
  /** Servers that have answered in a way that the fast one does not take. */
  readonly #unsuitable = new Set<string>();

  constructor(policy: TransferPolicy) {
    this.#fast = new FastTransport(policy);
    this.#simple = new SimpleTransport(policy);
  }

  async get(request: GetRequest, receiver: Receiver): Promise<void> {
    const { origin } = request.url;
    if (!this.#unsuitable.has(origin) && proxyFor(request.url) === null) {
      try {
        await this.#fast.get(request, receiver);
        return;
      } catch (error) {
        if (!(error instanceof Unsuitable)) throw error;
        this.#unsuitable.add(origin);
      }
    }
    await this.#simple.get(request, receiver);
  }

  close(): void {
    this.#fast.close();
    this.#simple.close();
  }
}
