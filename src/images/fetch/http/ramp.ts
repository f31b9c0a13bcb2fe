import { performance, type EventLoopUtilization } from "node:perf_hooks";

import type { TransferPolicy } from "../policy.js";

/** More connections must bring at least this much more, or no further ones are added for a while. */
const WORTHWHILE_GROWTH = 1.15;
const HOLD_MS = 1_000;
const MAX_HOLD_MS = 16_000;

interface Trial {
  readonly lanesBefore: number;
  readonly rateBefore: number;
  readonly measureFrom: number;
  readonly until: number;
}

/**
 * Decides how many connections one file is fetched over. One is enough wherever it fills the line; over a long or lossy way
 * each gets only so much. So the number is doubled as long as that makes the whole quicker.
 */
export class Ramp {
  readonly #policy: TransferPolicy;
  #lanes = 1;
  #holdUntil: number;
  #holdMs = HOLD_MS;
  #trial: Trial | null = null;
  #measured: { bytes: number; at: number };
  readonly #load: () => number;

  /**
   * `received` is what has come so far, at the time `now` in milliseconds. `load` tells which part of the time since it was
   * last asked this thread was busy.
   */
  constructor(policy: TransferPolicy, received: number, now: number, load = threadLoad()) {
    this.#policy = policy;
    this.#load = load;
    this.#measured = { bytes: received, at: now };
    this.#holdUntil = now + policy.laneTrialMs;
  }

  get lanes(): number {
    return this.#lanes;
  }

  /** One connection was refused or broke: go on with those that work. */
  lost(remaining: number, now: number): void {
    this.#lanes = Math.max(1, remaining);
    this.#trial = null;
    this.#hold(now);
  }

  /** To be called about every quarter of `laneTrialMs`. */
  tick(received: number, left: number, now: number): void {
    const { laneTrialMs, laneWorthMs, maxLanes, maxLoad } = this.#policy;
    const trial = this.#trial;
    if (trial !== null && this.#measured.at < trial.measureFrom) {
      // Connections that have only just begun say nothing about the rate yet.
      if (now >= trial.measureFrom) this.#measured = { bytes: received, at: now };
      return;
    }
    if (now < (trial?.until ?? this.#holdUntil)) return;
    const rate = (received - this.#measured.bytes) / Math.max(1, now - this.#measured.at);
    const busy = this.#load();
    this.#measured = { bytes: received, at: now };
    this.#trial = null;
    if (trial !== null && rate < trial.rateBefore * WORTHWHILE_GROWTH) {
      this.#lanes = trial.lanesBefore;
      this.#hold(now);
      return;
    }
    if (trial !== null) this.#holdMs = HOLD_MS;
    if (this.#lanes >= maxLanes || busy > maxLoad || left < rate * laneWorthMs) return;
    const lanesBefore = this.#lanes;
    this.#lanes = Math.min(maxLanes, lanesBefore * 2);
    this.#trial = { lanesBefore, rateBefore: rate, measureFrom: now + laneTrialMs / 2, until: now + laneTrialMs };
  }

  #hold(now: number): void {
    this.#holdUntil = now + this.#holdMs;
    this.#holdMs = Math.min(MAX_HOLD_MS, this.#holdMs * 2);
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
