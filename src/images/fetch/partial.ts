import { fstatSync, ftruncateSync, readSync, writeSync } from "node:fs";

import { Intervals, type Interval } from "./intervals.js";
import { Journal, journalPath, sourceOf } from "./journal.js";
import { openOwnFile, removeSideFiles } from "./own-file.js";
import { SpaceRule } from "./space.js";
import { SyncedFile } from "./synced-file.js";
import { dataRuns } from "../zeros.js";

const MIB = 1024 * 1024;
/** How much may be written before the journal tells of it: with what is on its way, below 1 MiB is fetched twice after a crash. */
const JOURNAL_EVERY = MIB / 4;
/** Data goes to the disk while it flows; otherwise a whole image would wait for the disk at the end. */
const SYNC_EVERY = 32 * MIB;

/** Told what becomes of the partial file. */
export interface PartialListener {
  /** The bytes begin anew, for a file of `total` bytes. */
  restarted(): void;
  /** The run of bytes from the beginning of the file goes on to `prefix` now. */
  grown(prefix: number): void;
}

export interface Identity {
  readonly url: string;
  readonly total: number | null;
  readonly validator: string | null;
}

/**
 * A file that is being filled, from any number of connections and over any number of processes' lives.
 * Blocks of zeros are not written but left as holes.
 */
export class PartialFile {
  /** Body bytes received, those that were thrown away included. */
  fetchedBytes = 0;
  /** How many connections fill it at once: all their appenders together hold back no more than one alone. */
  lanes = 1;
  /** Buffers of appenders that have ended, for the next ones. */
  readonly spareBuffers: Buffer[] = [];

  readonly path: string;
  readonly fd: number;
  readonly #disk: SyncedFile;
  readonly #space: SpaceRule;
  /** The size of a file that was found with no journal telling of its bytes, else 0. */
  readonly untold: number;
  readonly #journal: Journal;
  readonly #digest: string | null;
  #source: string;
  #total: number | null;
  #validator: string | null;
  #done: Intervals;
  #synced: readonly Interval[];
  /** Below this offset, what is not done may still hold bytes of an interrupted attempt. */
  #staleEnd: number;
  #listener: PartialListener | null = null;
  #exchanges: number;
  #journaledAt = 0;
  #syncedAt = 0;

  private constructor(path: string, digest: string | null, fd: number, durable: boolean) {
    this.path = path;
    this.fd = fd;
    this.#disk = new SyncedFile(fd, durable);
    this.#space = new SpaceRule(path, fd);
    this.#digest = digest;
    const { journal, entry } = Journal.open(journalPath(path));
    this.#journal = journal;
    // Bytes that were fetched for another digest are of no use, whatever server they came from.
    const known = entry !== null && entry.digest === digest ? entry : null;
    this.#source = known?.source ?? "";
    this.#total = known?.total ?? null;
    this.#validator = known?.validator ?? null;
    this.#synced = known?.synced ?? [];
    const size = fstatSync(fd).size;
    this.#done = new Intervals((known?.done ?? []).filter(([, end]) => end <= size));
    this.#exchanges = this.#done.covered > 0 ? 2 : 0;
    this.#staleEnd = this.#done.end;
    this.untold = entry === null ? size : 0;
  }

  /** Opens or makes it, and clears away what killed processes left beside it. */
  static async open(path: string, digest: string | null, durable = true): Promise<PartialFile> {
    const fd = openOwnFile(path);
    try {
      await removeSideFiles(path, [journalPath(path)]);
      return new PartialFile(path, digest, fd, durable);
    } catch (error) {
      await new SyncedFile(fd).close();
      throw error;
    }
  }

  get total(): number | null {
    return this.#total;
  }
  get validator(): string | null {
    return this.#validator;
  }
  get covered(): number {
    return this.#done.covered;
  }
  get prefix(): number {
    return this.#done.prefix;
  }
  get complete(): boolean {
    return this.#total !== null && this.#done.covered === this.#total;
  }
  /** Whether the bytes are of more than one response, so that a wrong digest may be the fault of the seams. */
  get spliced(): boolean {
    return this.#exchanges > 1;
  }

  isFrom(url: string): boolean {
    return this.#source === sourceOf(url);
  }

  missing(): Interval[] {
    return this.#done.missing(this.#total ?? Infinity);
  }

  listen(listener: PartialListener): void {
    this.#listener = listener;
    if (this.prefix > 0) listener.grown(this.prefix);
  }

  /** A response begins to deliver the whole file: what is here from before goes. */
  restart(identity: Identity): void {
    this.reset();
    this.#identify(identity);
  }

  /** A response goes on with what is here. */
  resume(identity: Identity): void {
    this.#identify(identity);
  }

  #identify({ url, total, validator }: Identity): void {
    this.#space.expect(total, (total ?? 0) - this.#done.covered, this.prefix);
    this.#source = sourceOf(url);
    this.#total = total;
    this.#validator = validator;
    this.#exchanges++;
    this.#stretch();
    this.#record();
  }

  /** Gives the file its size, so that it may end in a hole: as soon as there is room for it. */
  #stretch(): void {
    if (this.#total !== null && this.#space.decided) ftruncateSync(this.fd, this.#total);
  }

  /** Another connection delivers a part of the same file. */
  splice(): void {
    this.#exchanges++;
  }

  /** Throws away all bytes. */
  reset(): void {
    // Not a file that is empty: ext4 takes that for the first half of replacing a file, and writes all of it out at the close.
    if (fstatSync(this.fd).size > 0) ftruncateSync(this.fd, 0);
    this.#done = new Intervals();
    this.#synced = [];
    this.#staleEnd = 0;
    this.#exchanges = 0;
    this.#total = null;
    this.#validator = null;
    this.#record();
    this.#listener?.restarted();
  }

  /** The body has ended where the server never told its length. */
  setTotal(total: number): void {
    this.#total = total;
    ftruncateSync(this.fd, total);
    this.#record();
  }

  /** Takes a file whose bytes no journal tells of as complete: its digest will decide. */
  adopt(): void {
    const size = this.untold;
    this.#done = new Intervals([[0, size]]);
    this.#total = size;
    this.#exchanges = 2;
    this.#listener?.grown(size);
  }

  write(bytes: Buffer, offset: number): void {
    this.#disk.check();
    const runs = dataRuns(bytes, offset);
    for (let i = 0; i < runs.length; i += 2) this.#pwrite(bytes, runs[i] ?? 0, runs[i + 1] ?? 0, offset);
    if (offset < this.#staleEnd) this.#clearStale(bytes, offset);
    const before = this.prefix;
    this.#done.add(offset, offset + bytes.length);
    const covered = this.#done.covered;
    if (covered - this.#journaledAt >= JOURNAL_EVERY) this.#record();
    if (covered - this.#syncedAt >= SYNC_EVERY) this.#syncBehind();
    const { decided } = this.#space;
    this.#space.grown(covered, this.prefix);
    if (!decided) this.#stretch();
    if (this.prefix > before) this.#listener?.grown(this.prefix);
  }

  #pwrite(bytes: Buffer, start: number, end: number, offset: number): void {
    for (let at = start; at < end;) at += writeSync(this.fd, bytes, at, end - at, offset + at);
  }

  /** Where zeros came and an interrupted attempt had left something else, the zeros must be written. */
  #clearStale(bytes: Buffer, offset: number): void {
    const present = Buffer.alloc(bytes.length);
    const length = readSync(this.fd, present, 0, present.length, offset);
    if (!present.subarray(0, length).equals(bytes.subarray(0, length))) this.#pwrite(bytes, 0, bytes.length, offset);
  }

  #record(): void {
    this.#journaledAt = this.#done.covered;
    this.#syncedAt = Math.min(this.#syncedAt, this.#journaledAt);
    this.#journal.write({
      source: this.#source,
      digest: this.#digest,
      total: this.#total,
      validator: this.#validator,
      done: this.#done.runs,
      synced: this.#synced,
    });
  }

  #syncBehind(): void {
    const [done, runs] = [this.#done, [...this.#done.runs]];
    const begun = this.#disk.syncBehind(() => {
      if (this.#done === done) this.#synced = runs; // else the file was started anew meanwhile
    });
    if (begun) this.#syncedAt = this.#done.covered;
  }

  /** Makes everything durable. */
  async sync(): Promise<void> {
    await this.#disk.sync();
    this.#synced = [...this.#done.runs];
  }

  /** Ends the use of the file. What is here, be it all, is what a later transfer goes on with. */
  async close(): Promise<void> {
    try {
      this.#record();
    } catch {
      // A full disk: what the journal told before still holds, as bytes are only ever added.
    }
    this.#journal.close();
    await this.#disk.close();
  }
}
