import type { TransferProgress } from "./request.js";

const LEAST_PAUSE_MS = 50;

/** Tells the caller how far it is: seldom enough to cost nothing, and always the last word of a phase. */
export class ProgressReporter {
  readonly #callback: ((progress: TransferProgress) => unknown) | undefined;
  #last = -Infinity;

  constructor(callback: ((progress: TransferProgress) => unknown) | undefined) {
    this.#callback = callback;
  }

  report(progress: TransferProgress, options: { readonly final?: boolean } = {}): void {
    if (this.#callback === undefined) return;
    const now = performance.now();
    if (options.final !== true && now - this.#last < LEAST_PAUSE_MS) return;
    this.#last = now;
    try {
      const result = this.#callback(progress);
      if (result instanceof Promise) result.catch(() => undefined); // as below
    } catch {
      // A progress bar that fails is the caller's affair; the bytes are not to suffer from it.
    }
  }
}
