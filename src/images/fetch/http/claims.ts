import type { Interval } from "../intervals.js";
import { BLOCK } from "../../zeros.js";

const MIB = 1024 * 1024;
const LEAST_SEGMENT = MIB;
const LARGEST_SEGMENT = 16 * MIB;
/** What is left of a claim is divided between two connections if both get at least this. */
const LEAST_HALF = 32 * 1024;

/** What one connection is bringing: `next` is the byte that it receives next. */
export interface Claim {
  next: number;
  end: number;
}

/** Which part of a file is whose: what nobody has begun waits in order, and who is done takes from it, or of another's. */
export class Claims {
  #waiting: Interval[];
  readonly #active = new Set<Claim>();

  constructor(missing: readonly Interval[]) {
    this.#waiting = [...missing];
  }

  /** Takes what a response has been found to bring, as far as it lacks. */
  begin([start, end]: Interval): Claim {
    const first = this.#waiting.shift();
    if (first !== undefined && end < first[1]) this.#waiting.unshift([end, first[1]]);
    return this.#activate(start, first === undefined ? end : Math.min(end, first[1]));
  }

  /** The next part for one of `lanes` connections, or null if there is nothing left to do. */
  take(lanes: number): Claim | null {
    if (this.#waiting.length === 0 && lanes > 1) this.#divide(lanes);
    const first = this.#waiting.shift();
    if (first === undefined) return null;
    const end = Math.min(first[1], this.#roundUp(first[0] + this.#segment(lanes)));
    if (end < first[1]) this.#waiting.unshift([end, first[1]]);
    return this.#activate(first[0], end);
  }

  /** Lets a claim that is filled go on into what nobody has begun, up to `limit` if the response brings so much. */
  extend(claim: Claim, limit: number, lanes: number): boolean {
    const first = this.#waiting[0];
    if (first?.[0] !== claim.end || limit <= claim.end) return false;
    this.#waiting.shift();
    const end = Math.min(first[1], limit, this.#roundUp(first[0] + this.#segment(lanes)));
    if (end < first[1]) this.#waiting.unshift([end, first[1]]);
    claim.end = end;
    return true;
  }

  /** Gives up a claim. What it did not bring waits again. */
  release(claim: Claim): void {
    this.#active.delete(claim);
    if (claim.next >= claim.end) return;
    this.#waiting.push([claim.next, claim.end]);
    this.#waiting.sort((a, b) => a[0] - b[0]);
  }

  #activate(next: number, end: number): Claim {
    const claim = { next, end };
    this.#active.add(claim);
    return claim;
  }

  /** Cuts the claim with most before it: to its next segment if it is long, else in half. */
  #divide(lanes: number): void {
    let largest: Claim | null = null;
    for (const claim of this.#active) {
      if (largest === null || claim.end - claim.next > largest.end - largest.next) largest = claim;
    }
    if (largest === null || !Number.isFinite(largest.end)) return;
    const left = largest.end - largest.next;
    const segment = this.#segment(lanes);
    const cut = this.#roundUp(largest.next + Math.min(segment, left / 2));
    if (left < 2 * LEAST_HALF || cut >= largest.end) return;
    this.#waiting.push([cut, largest.end]);
    largest.end = cut;
  }

  /** Long enough that asking for the next one costs little; short enough that the bytes arrive nearly in order. */
  #segment(lanes: number): number {
    if (lanes === 1) return Infinity;
    let left = 0;
    for (const [start, end] of this.#waiting) left += end - start;
    for (const claim of this.#active) left += claim.end - claim.next;
    return Math.min(LARGEST_SEGMENT, Math.max(LEAST_SEGMENT, left / lanes));
  }

  #roundUp(offset: number): number {
    return Number.isFinite(offset) ? Math.ceil(offset / BLOCK) * BLOCK : offset;
  }
}
