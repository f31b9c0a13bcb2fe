/** A run of bytes: from `start` up to and without `end`. */
export type Interval = readonly [start: number, end: number];

/** Which bytes of a file are here: disjoint runs in ascending order, merged where they touch. */
export class Intervals {
  #runs: Interval[];
  #covered: number;

  constructor(runs: readonly Interval[] = []) {
    this.#runs = [];
    this.#covered = 0;
    for (const [start, end] of runs) this.add(start, end);
  }

  get runs(): readonly Interval[] {
    return this.#runs;
  }

  /** How many bytes are here. */
  get covered(): number {
    return this.#covered;
  }

  /** How far the run that begins at 0 goes. */
  get prefix(): number {
    const first = this.#runs[0];
    return first?.[0] === 0 ? first[1] : 0;
  }

  /** The end of the last run. */
  get end(): number {
    return this.#runs.at(-1)?.[1] ?? 0;
  }

  add(start: number, end: number): void {
    if (end <= start) return;
    let from = this.#runs.length;
    while (from > 0 && (this.#runs[from - 1]?.[1] ?? 0) >= start) from--;
    let to = from;
    let [low, high] = [start, end];
    for (let run = this.#runs[to]; run !== undefined && run[0] <= end; run = this.#runs[++to]) {
      low = Math.min(low, run[0]);
      high = Math.max(high, run[1]);
      this.#covered -= run[1] - run[0];
    }
    this.#runs.splice(from, to - from, [low, high]);
    this.#covered += high - low;
  }

  /** What lacks of a file of `total` bytes, ascending. */
  missing(total: number): Interval[] {
    const gaps: Interval[] = [];
    let at = 0;
    for (const [start, end] of this.#runs) {
      if (start >= total) break;
      if (start > at) gaps.push([at, start]);
      at = end;
    }
    if (at < total) gaps.push([at, total]);
    return gaps;
  }
}
