import { createHash } from "node:crypto";
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import { crc32 } from "node:zlib";

import { isErrno } from "../../host/errno.js";
import { processIdentity } from "../../host/process.js";
import { Intervals, type Interval } from "./intervals.js";
import { openOwnFile } from "./own-file.js";

/** What is known of a partial file besides its bytes. */
export interface JournalEntry {
  /** SHA-256 of the address that the bytes came from: an address may hold a password, and may be longer than a slot. */
  readonly source: string;
  /** The SHA-256 that the caller expects, or null. */
  readonly digest: string | null;
  /** The size of the whole file, or null while unknown. */
  readonly total: number | null;
  /** What the server's strong validator was: an entity tag with its quotes, or a date. Null: it can't be continued. */
  readonly validator: string | null;
  /** The runs of bytes that were written. */
  readonly done: readonly Interval[];
  /** Those of them that have reached the disk: what a power cut leaves. */
  readonly synced: readonly Interval[];
}

const SLOT = 8192;
/** More runs than fit are left out, and fetched again. */
const MAX_RUNS = 100;

/**
 * The side file that tells a later process what of a partial file can be trusted.
 *
 * It has two slots, written in turn, each a line `CRC32 JSON` with a growing number: a process may be killed, and a
 * machine lose power, while one is written; the other still holds. A slot tells the boot it was written in, because after
 * another boot only what was synced is there for certain.
 */
export class Journal {
  readonly #fd: number;
  #serial: number;

  private constructor(fd: number, serial: number) {
    this.#fd = fd;
    this.#serial = serial;
  }

  /** Opens or creates the journal. `entry` is what the last process left, or null. */
  static open(path: string): { journal: Journal; entry: JournalEntry | null } {
    const fd = openOwnFile(path);
    const latest = latestSlot(fd);
    return { journal: new Journal(fd, latest?.serial ?? 0), entry: latest?.entry ?? null };
  }

  write(entry: JournalEntry): void {
    this.#serial++;
    const trimmed = { ...entry, done: entry.done.slice(0, MAX_RUNS), synced: entry.synced.slice(0, MAX_RUNS) };
    const json = JSON.stringify({ serial: this.#serial, boot: bootId(), entry: trimmed });
    const line = Buffer.from(`${crc32(json).toString(16).padStart(8, "0")} ${json}\n`);
    writeSync(this.#fd, line, 0, line.length, (this.#serial % 2) * SLOT);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** What the journal holds for an address. */
export function sourceOf(url: string): string {
  return createHash("sha256").update(url).digest("hex");
}

/** Where the journal of a partial file is. */
export function journalPath(partial: string): string {
  return `${partial}.journal`;
}

/** How far a partial file is that some process fills, or has left unfinished: null if there is none. */
export function peekPartial(partial: string): { readonly bytes: number; readonly total: number | null } | null {
  const entry = peekJournal(journalPath(partial));
  return entry === null ? null : { bytes: new Intervals(entry.done).covered, total: entry.total };
}

/** What the journal tells at the moment, whoever writes it. */
function peekJournal(path: string): JournalEntry | null {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      return latestSlot(fd)?.entry ?? null;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (isErrno(error)) return null; // there is none, or something else in its place: it is only for show
    throw error;
  }
}

/** Empty where the system has none: then a partial file counts as one of another boot. */
function bootId(): string {
  return (boot ??= processIdentity()?.scope.boot ?? "");
}

let boot: string | undefined;

interface Slot {
  readonly serial: number;
  readonly entry: JournalEntry;
}

function latestSlot(fd: number): Slot | undefined {
  const slots = [readSlot(fd, 0), readSlot(fd, 1)].filter((slot) => slot !== null);
  return slots.sort((a, b) => b.serial - a.serial)[0];
}

function readSlot(fd: number, index: number): Slot | null {
  const bytes = Buffer.alloc(SLOT);
  const length = readSync(fd, bytes, 0, SLOT, index * SLOT);
  const line = bytes.subarray(0, length).toString("utf8");
  const end = line.indexOf("\n");
  const json = line.slice(9, end);
  if (end < 9 || parseInt(line.slice(0, 8), 16) !== crc32(json)) return null;
  const slot = JSON.parse(json) as { serial: number; boot: string; entry: JournalEntry };
  const sameBoot = slot.boot !== "" && slot.boot === bootId();
  return { serial: slot.serial, entry: sameBoot ? slot.entry : { ...slot.entry, done: slot.entry.synced } };
}
