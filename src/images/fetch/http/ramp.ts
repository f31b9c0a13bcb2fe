import { performance, type EventLoopUtilization } from "node:perf_hooks";

import type { TransferPolicy } from "../policy.js";

/** More connections must bring at least this much more, or no further ones are added for a while. */
const WORTHWHILE_GROWTH = 1.15;
/** When the rate has fallen so far below what it was, the line is not what it was, and it is worth to try anew. */
const WORTHWHILE_DROP = 0.75;
/** A connection needs a few round trips to show what it can do: so many windows may pass before it counts as of no use. */
const TRIAL_WINDOWS = 4;
const HOLD_MS = 1_000;
const MAX_HOLD_MS = 64_000;

/**
 * Decides how many connections one file is fetched over. One is enough wherever it fills the line; over a long or lossy way
 * each gets only so much. So the number is doubled as long as that makes the whole quicker. It is not made smaller again for
 * want of success: where several connections do no good they do no harm either, and ending one throws away what is under way.
 */
export class Ramp {
  readonly #policy: TransferPolicy;
  readonly #load: () => number;
  #lanes = 1;
  #holdMs = HOLD_MS;
  /** Until then nothing is tried, unless the rate drops. */
  #holdUntil = 0;
  /** The rate before the latest change, or the one that the latest trial came to. */
  #rateBefore = 0;
  /** Windows of observation left for the latest trial, 0 if none is on. */
  #trial = 0;
  #window: { bytes: number; from: number; until: number };

  /**
   * `received` is what has come so far, at the time `now` in milliseconds. `load` tells which part of the time since it was
   * last asked this thread was busy.
   */
  constructor(policy: TransferPolicy, received: number, now: number, load = threadLoad()) {
    this.#policy = policy;
    this.#load = load;
    this.#window = { bytes: received, from: now, until: now + policy.laneTrialMs };
  }

  get lanes(): number {
    return this.#lanes;
  }

  /** One connection was refused or broke: go on with those that work. */
  lost(remaining: number, now: number): void {
    this.#lanes = Math.max(1, remaining);
    this.#trial = 0;
    this.#rateBefore = 0;
    this.#hold(now);
  }

  /** To be called about every quarter of `laneTrialMs`. */
  tick(received: number, left: number, now: number): void {
    const { laneTrialMs, laneWorthMs, laneMaxRate, maxLanes, maxLoad } = this.#policy;
    if (now < this.#window.until) return;
    const rate = (received - this.#window.bytes) / Math.max(1, now - this.#window.from);
    const load = this.#load();
    this.#window = { bytes: received, from: now, until: now + laneTrialMs };

    if (this.#trial > 0) {
      this.#trial--;
      if (rate >= this.#rateBefore * WORTHWHILE_GROWTH) {
        this.#trial = 0;
        this.#holdMs = HOLD_MS;
      } else if (this.#trial === 0) {
        this.#hold(now);
      } else {
        return;
      }
      this.#rateBefore = Math.max(rate, this.#rateBefore);
    }
    const held = now < this.#holdUntil && rate > this.#rateBefore * WORTHWHILE_DROP;
    if (held || this.#lanes >= maxLanes || load > maxLoad || rate * 1000 > laneMaxRate || left < rate * laneWorthMs)
      return;
    this.#lanes = Math.min(maxLanes, this.#lanes * 2);
    this.#rateBefore = rate;
    this.#trial = TRIAL_WINDOWS;
  }

  #hold(now: number): void {
    this.#holdUntil = now + this.#holdMs;
    this.#holdMs = Math.min(MAX_HOLD_MS, this.#holdMs * 4);
  }
}

function threadLoad(): () => number {
  let before: EventLoopUtilization = performance.eventLoopUtilization();
  return () => {
    const { utilization } = performance.eventLoopUtilization(before);
    before = performance.eventLoopUtilization();
    return utilization;
  };
}
