import { Appender } from "../appender.js";
import { FetchFailure } from "../failure.js";
import type { Job } from "../scheme.js";
import { Claims, type Claim } from "./claims.js";
import type { Receiver, Transport } from "./exchange.js";
import { contentRange, statusFailure, type ResponseHead } from "./head.js";
import { planOpening, refuseEncoding, refuseOtherVersion, StartOver, takeAnswer } from "./opening.js";
import { Ramp } from "./ramp.js";
import { follow, targetOf, type Target } from "./redirect.js";

/** One attempt to complete the file: an opening request, and as many connections beside it as make it quicker. */
export class Download {
  readonly #job: Job;
  readonly #transport: Transport;
  readonly #ranges: boolean;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #lanes = new Set<Promise<void>>();
  #claims = new Claims([]);
  #ramp: Ramp | null = null;
  #target: Target;
  /** Why the last connection that failed did so; what is left is then brought by the others. */
  #failure: FetchFailure | null = null;
  #fatal: { readonly error: unknown } | null = null;

  /** `ranges` is whether the server may be asked for parts. */
  constructor(job: Job, transport: Transport, ranges: boolean) {
    this.#job = job;
    this.#transport = transport;
    this.#ranges = ranges;
    this.#signal = AbortSignal.any([job.signal, this.#stop.signal]);
    this.#target = targetOf(job.url);
  }

  async run(): Promise<void> {
    const { file, policy } = this.#job;
    this.#launch(this.#open());
    const timer = setInterval(() => this.#adapt(), policy.laneTrialMs / 4);
    try {
      while (this.#lanes.size > 0 && this.#fatal === null) await Promise.race(this.#lanes);
    } finally {
      clearInterval(timer);
      this.#stop.abort();
      await Promise.all(this.#lanes);
      file.lanes = 1;
    }
    if (this.#fatal !== null) throw this.#fatal.error;
    if (file.complete) return;
    throw this.#failure ?? new FetchFailure("the server sent less than the whole file", { transient: true });
  }

  #launch(lane: Promise<void>): void {
    const settled: Promise<void> = lane
      .catch((error: unknown) => this.#lost(error))
      .finally(() => {
        this.#lanes.delete(settled);
      });
    this.#lanes.add(settled);
  }

  #lost(error: unknown): void {
    // What is here and what comes now are not of one file: no connection can go on with it.
    const split = error instanceof StartOver;
    if (!(error instanceof FetchFailure) || split || (!error.transient && this.#ramp === null)) {
      this.#fatal ??= { error };
      this.#stop.abort(); // the others too: with them it would be told only when they come to their ends
      return;
    }
    // What is refused to one connection may be granted to the next attempt, whose opening then judges for good.
    this.#failure = error.transient ? error : new FetchFailure(error.message, { transient: true, cause: error });
    this.#ramp?.lost(this.#lanes.size - 1, performance.now());
  }

  /** The first connection: asks for everything that lacks, or as much of it as one range can name. */
  async #open(): Promise<void> {
    const { file, policy } = this.#job;
    const opening = planOpening(this.#job, this.#ranges);
    let filling: Filling | null = null;
    const options = this.#options(opening.headers);
    const receiver: Receiver = {
      head: (head) => {
        const answer = takeAnswer(head, opening, this.#job);
        if (answer === null) return false;
        this.#claims = new Claims(file.missing());
        filling = this.#fill(this.#claims.begin(answer.brings), answer.brings[1]);
        if (answer.divisible && this.#ranges && !this.#job.plain)
          this.#ramp = new Ramp(policy, file.fetchedBytes, performance.now());
        return true;
      },
      data: (bytes) => filling?.take(bytes) ?? false,
    };
    try {
      await follow(this.#transport, this.#target, options, receiver, (target) => (this.#target = target));
      this.#finishUnknown(filling);
    } finally {
      (filling as Filling | null)?.end();
    }
    await this.#work();
  }

  /** A body without a known length has come to its proper end. */
  #finishUnknown(filling: Filling | null): void {
    if (filling === null || Number.isFinite(filling.claim.end)) return;
    filling.end();
    this.#job.file.setTotal(filling.claim.next);
  }

  /** Brings one part after the other until nothing is left or there are connections enough. */
  async #work(): Promise<void> {
    for (;;) {
      const lanes = this.#ramp?.lanes ?? 1;
      if (this.#lanes.size > lanes || this.#signal.aborted) return;
      const claim = this.#job.file.total === null ? null : this.#claims.take(lanes);
      if (claim === null) return;
      await this.#bring(claim);
    }
  }

  async #bring(claim: Claim): Promise<void> {
    const { file } = this.#job;
    const [start, end] = [claim.next, claim.end];
    const filling = this.#fill(claim, end);
    const condition = file.validator === null ? {} : { "if-range": file.validator };
    const receiver: Receiver = {
      head: (head) => {
        checkPart(head, start, end, this.#job);
        file.splice();
        return true;
      },
      data: (bytes) => filling.take(bytes),
    };
    try {
      const headers = { range: `bytes=${start}-${end - 1}`, ...condition };
      await follow(this.#transport, this.#target, this.#options(headers), receiver);
    } finally {
      filling.end();
    }
  }

  #options(headers: Readonly<Record<string, string>>): Parameters<typeof follow>[2] {
    const { pinned, policy } = this.#job;
    return { headers, signal: this.#signal, maxRedirects: policy.maxRedirects, allowDowngrade: pinned };
  }

  #fill(claim: Claim, brings: number): Filling {
    const lanes = (): number => this.#ramp?.lanes ?? 1;
    return new Filling(this.#job, this.#claims, claim, brings, lanes);
  }

  /** Looks from time to time whether more connections would be quicker. */
  #adapt(): void {
    const { file } = this.#job;
    const ramp = this.#ramp;
    if (ramp === null || this.#signal.aborted || this.#lanes.size === 0) return;
    ramp.tick(file.fetchedBytes, (file.total ?? 0) - file.covered, performance.now());
    file.lanes = ramp.lanes;
    while (this.#lanes.size < ramp.lanes) {
      const before = this.#lanes.size;
      const claim = this.#claims.take(ramp.lanes);
      if (claim === null) return;
      this.#launch(this.#bring(claim).then(() => this.#work()));
      if (this.#lanes.size === before) return;
    }
  }
}

/** Puts the bytes of one response where they belong. */
class Filling {
  readonly claim: Claim;
  readonly #job: Job;
  readonly #claims: Claims;
  readonly #appender: Appender;
  /** Where the response ends. */
  readonly #brings: number;
  readonly #lanes: () => number;
  #ended = false;

  constructor(job: Job, claims: Claims, claim: Claim, brings: number, lanes: () => number) {
    this.#job = job;
    this.#claims = claims;
    this.claim = claim;
    this.#brings = brings;
    this.#lanes = lanes;
    this.#appender = new Appender(job.file, claim.next);
  }

  take(bytes: Buffer): boolean {
    const { file, policy, onBytes } = this.#job;
    const { claim } = this;
    file.fetchedBytes += bytes.length;
    let rest = bytes;
    for (;;) {
      const room = claim.end - claim.next;
      const piece = rest.length > room ? rest.subarray(0, room) : rest;
      this.#appender.push(piece);
      claim.next += piece.length;
      rest = rest.subarray(piece.length);
      if (claim.next < claim.end || claim.end === this.#brings) break;
      if (!this.#claims.extend(claim, this.#brings, this.#lanes())) return false;
    }
    if (claim.next > policy.maxBytes) {
      throw new FetchFailure(`it is larger than the limit of ${policy.maxBytes} bytes`, { transient: false });
    }
    onBytes();
    return true;
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#claims.release(this.claim);
    this.#appender.end();
  }
}

/** The answer to a request for a part must be that part, of the file that the others are parts of. */
function checkPart(head: ResponseHead, start: number, end: number, job: Job): void {
  if (head.status !== 206) {
    if (head.status === 200) throw new FetchFailure("the file changed on the server", { transient: true });
    throw statusFailure(head, Date.now());
  }
  refuseEncoding(head);
  const range = contentRange(head);
  if (range?.start !== start || range.end !== end || (range.total !== null && range.total !== job.file.total)) {
    throw new FetchFailure("the server sent another part than the one asked for", { transient: true });
  }
  refuseOtherVersion(head, job);
}
