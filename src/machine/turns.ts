import { hostFailure } from "./host-failure.js";

/** Work that is done one after the other. What the host's system refuses is reported as a failure of that work. */
export class Turns {
  readonly #what: string;
  /** What need not be waited for by those who interrupt. */
  readonly #interruptible = new Set<AbortController>();
  #last: Promise<unknown> = Promise.resolve();

  constructor(what: string) {
    this.#what = what;
  }

  take<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#last.then(act).catch((error: unknown) => {
      throw hostFailure(error, this.#what);
    });
    this.#last = result.catch(() => undefined); // the caller has it; the next turn begins either way
    return result;
  }

  /** A turn that `interrupt` ends, also before it has begun. */
  async interruptible<T>(act: (interrupted: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    this.#interruptible.add(controller);
    try {
      return await this.take(() => {
        controller.signal.throwIfAborted();
        return act(controller.signal);
      });
    } finally {
      this.#interruptible.delete(controller);
    }
  }

  interrupt(reason: Error): void {
    for (const controller of this.#interruptible) controller.abort(reason);
  }
}
