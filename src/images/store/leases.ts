import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";

import { ImageError } from "../../errors.js";
import { liveness, processIdentity, type ProcessIdentity } from "../../host/process.js";
import { isErrno } from "../../host/errno.js";
import { unique } from "../../host/folder.js";
import { isObject } from "../../json.js";
import { replaceFile } from "./durable.js";
import type { Layout } from "./layout.js";
import { parseJson } from "./look.js";
import { isDigest } from "./record.js";

/** Who uses content: a machine for as long as its folder exists, or a piece of work for as long as its process lives. */
export interface LeaseHolder {
  readonly vmId: string | null;
  /** The lease lasts while this exists, whatever becomes of the process that took it. */
  readonly folder: string | null;
  /** The images whose files it uses. */
  readonly images: readonly string[];
}

export interface LeaseRecord extends LeaseHolder {
  readonly process: ProcessIdentity | null;
  readonly digests: readonly string[];
}

export interface LeaseSurvey {
  readonly live: LeaseRecord[];
  readonly stale: string[];
  readonly unreadable: string[];
}

/**
 * How long a lease counts after the last sign of its process, if that runs on another host or in another container and its
 * machine can't be seen from here.
 */
const UNKNOWN_LASTS_MS = 24 * 60 * 60 * 1000;
/** How often a process gives that sign: the time of the file. */
const RENEW_MS = 10 * 60 * 1000;

/** Keeps blobs from being removed. Written under the commit lock, which prune holds too. */
export class Leases {
  readonly #layout: Layout;

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** Takes a lease and gives what ends it. */
  take(digests: readonly string[], holder: LeaseHolder): () => void {
    const path = join(this.#layout.leases, `${unique()}.json`);
    const lease: LeaseRecord = { ...holder, process: processIdentity(), digests };
    replaceFile(path, JSON.stringify(lease));
    const stop = renewing(path);
    return () => {
      stop();
      rmSync(path, { force: true });
    };
  }

  /** Which leases hold, and the files of those that don't and of those that can't be read. */
  survey(): LeaseSurvey {
    const survey: LeaseSurvey = { live: [], stale: [], unreadable: [] };
    for (const path of this.#files()) {
      const text = readText(path);
      if (text === undefined) continue; // released just now, or no file
      const lease = parseLease(parseJson(text));
      if (lease === null) survey.unreadable.push(path);
      else if (holds(lease, path)) survey.live.push(lease);
      else survey.stale.push(path);
    }
    return survey;
  }

  /**
   * The same for who is about to remove something: fails with IMAGE_INVALID if a lease can't be read, for what it holds is
   * unknown then, and nothing may be removed on a guess.
   */
  surveyAll(): LeaseSurvey {
    const survey = this.survey();
    const [path] = survey.unreadable;
    if (path === undefined) return survey;
    throw new ImageError("IMAGE_INVALID", `The lease '${path}' can't be read, so what it holds is unknown.`, {
      hint: "Delete the file if no machine uses an image of this cache.",
      details: { path },
    });
  }

  #files(): string[] {
    try {
      return readdirSync(this.#layout.leases)
        .filter((name) => name.endsWith(".json"))
        .map((name) => join(this.#layout.leases, name));
    } catch (error) {
      if (isErrno(error, "ENOENT", "ENOTDIR")) return [];
      throw error;
    }
  }
}

/** The leases of this process that last. */
const renewed = new Set<string>();
let timer: NodeJS.Timeout | undefined;

/** Keeps a lease from looking given up to those who can't look at this process, until what it gives is called. */
function renewing(path: string): () => void {
  renewed.add(path);
  timer ??= setInterval(() => renewed.forEach(renew), RENEW_MS).unref();
  return () => {
    renewed.delete(path);
    if (renewed.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
}

function renew(path: string): void {
  try {
    const now = new Date();
    utimesSync(path, now, now);
  } catch (error) {
    // Gone, or a disk that is away for a moment: there is a day for the next try.
    if (!isErrno(error)) throw error;
  }
}

function holds(lease: LeaseRecord, path: string): boolean {
  const verdict = lease.process === null ? "dead" : liveness(lease.process);
  const age = Date.now() - (lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0);
  if (lease.folder !== null && existsSync(lease.folder)) {
    // The process of a detached machine has ended, so whoever comes by and sees the machine gives the sign for it.
    if (verdict === "dead" && age > RENEW_MS) renew(path);
    return true;
  }
  return verdict === "unknown" ? age < UNKNOWN_LASTS_MS : verdict === "alive";
}

/** Null for a file that this user may not read, undefined for none. */
function readText(path: string): string | null | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (isErrno(error, "ENOENT", "EISDIR")) return undefined;
    if (isErrno(error, "EACCES", "EPERM")) return null;
    throw error;
  }
}

function parseLease(value: unknown): LeaseRecord | null {
  if (!isObject(value)) return null;
  const { vmId, folder, images, process, digests } = value;
  const named = (text: unknown): text is string | null => text === null || typeof text === "string";
  if (!named(vmId) || !named(folder) || !Array.isArray(digests) || !digests.every(isDigest)) return null;
  if (!Array.isArray(images) || !images.every((name) => typeof name === "string")) return null;
  if (process !== null && !(isObject(process) && isObject(process["scope"]))) return null;
  return { vmId, folder, images, process: process as ProcessIdentity | null, digests };
}
