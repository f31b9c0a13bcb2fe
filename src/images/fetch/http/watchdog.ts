import { FetchFailure } from "../failure.js";

/** Ends an exchange in which nothing happens for too long. */
export class Watchdog {
  readonly #expire: (failure: FetchFailure) => void;
  #timer: NodeJS.Timeout | null = null;
  #limitMs = 0;
  #reason = "";
  #since = 0;

  constructor(expire: (failure: FetchFailure) => void) {
    this.#expire = expire;
  }

  /** From now on, at most `limitMs` may pass until the next call of `expect` or `touch`. */
  expect(limitMs: number, what: string): void {
    this.#limitMs = limitMs;
    this.#reason = `${what} within ${limitMs / 1000} s`;
    this.touch();
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#check, limitMs);
  }

  /** Something has happened. It costs a look at the clock: the timer is not set anew for each piece of a body. */
  touch(): void {
    this.#since = performance.now();
  }

  readonly #check = (): void => {
    const left = this.#limitMs - (performance.now() - this.#since);
    if (left <= 0) this.#expire(new FetchFailure(`timed out: ${this.#reason}`, { transient: true }));
    else this.#timer = setTimeout(this.#check, Math.max(1, left));
  };

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
