import { FetchFailure } from "../failure.js";
import type { Interval } from "../intervals.js";
import type { Job } from "../scheme.js";
import {
  contentLength,
  contentRange,
  isChunked,
  isOfVersion,
  statusFailure,
  strongValidator,
  unsatisfiedTotal,
  type ResponseHead,
} from "./head.js";

/** What is asked first: the whole file, or the first part of it that lacks. */
export interface Opening {
  readonly headers: Readonly<Record<string, string>>;
  /** The part that is asked for, or null for the whole. */
  readonly part: Interval | null;
}

/** How the server's answer to the opening is to be used. */
export interface Answer {
  /** The bytes that the response brings; the end is Infinity if the server doesn't tell. */
  readonly brings: Interval;
  /** Whether parts of the file can be asked for over other connections. */
  readonly divisible: boolean;
}

export function planOpening(job: Job, ranges: boolean): Opening {
  const { file } = job;
  const [gap] = file.missing();
  if (!ranges || file.covered === 0 || gap === undefined) return { headers: {}, part: null };
  const condition = resumption(job);
  if (condition === null) return { headers: {}, part: null };
  const [start, end] = gap;
  const last = end === (file.total ?? Infinity) ? "" : end - 1;
  return { headers: { range: `bytes=${start}-${last}`, ...condition }, part: gap };
}

/**
 * What makes it safe to go on with the bytes that are here. The same address must be able to tell that its file is still the
 * same one (RFC 9110 section 13.1.5); a mirror knows nothing of the other's tags, but there the digest tells.
 */
function resumption({ file, url, pinned }: Job): Record<string, string> | null {
  if (file.isFrom(url)) return file.validator === null ? null : { "if-range": file.validator };
  return pinned && file.total !== null ? {} : null;
}

/** Takes the server's answer: null if the file turns out to be complete. Throws what the answer is worth otherwise. */
export function takeAnswer(head: ResponseHead, opening: Opening, job: Job): Answer | null {
  switch (head.status) {
    case 200:
      return takeWhole(head, job);
    case 206:
      return takePart(head, opening, job);
    case 416:
      return takeUnsatisfied(head, opening, job);
    default:
      throw statusFailure(head, Date.now());
  }
}

/** Bytes in an encoding that was not asked for are not the file's bytes, and must not be stored as such. */
export function refuseEncoding(head: ResponseHead): void {
  const encoding = head.headers.get("content-encoding") ?? "identity";
  if (encoding.toLowerCase() === "identity" || encoding === "") return;
  throw new FetchFailure(`the server sent it with Content-Encoding: ${encoding}, which was not asked for`, {
    transient: false,
  });
}

function takeWhole(head: ResponseHead, job: Job): Answer {
  const total = wholeLength(head, job);
  const validator = strongValidator(head);
  job.file.restart({ url: job.url, total, validator });
  const divisible = total !== null && validator !== null && head.headers.get("accept-ranges") === "bytes";
  return { brings: [0, total ?? Infinity], divisible };
}

/** The length of a whole file that comes in the file's own bytes; null where only its end will tell. */
export function wholeLength(head: ResponseHead, { pinned }: Pick<Job, "pinned">): number | null {
  refuseEncoding(head);
  const chunked = isChunked(head);
  const total = chunked ? null : contentLength(head);
  if (total === null && !chunked && !pinned) {
    throw new FetchFailure("the server tells neither its length nor where it ends, and no digest is pinned", {
      transient: false,
    });
  }
  return total;
}

function takePart(head: ResponseHead, { part }: Opening, job: Job): Answer {
  const { file, url } = job;
  refuseEncoding(head);
  const range = contentRange(head);
  if (part === null) throw startOver("the server sent a part where the whole was asked for");
  if (range === null) throw startOver("the server sent a part without telling which");
  const [start, end] = part;
  const length = isChunked(head) ? null : contentLength(head);
  if (range.start !== start || range.end > end || (length !== null && length !== range.end - range.start)) {
    throw startOver("the server sent another part than the one asked for");
  }
  const total = range.total ?? file.total;
  if (file.total !== null && total !== file.total) throw startOver("the file has another size now");
  const same = file.isFrom(url);
  if (same) refuseOtherVersion(head, job);
  file.resume({ url, total, validator: same ? file.validator : strongValidator(head) });
  return { brings: [range.start, range.end], divisible: file.validator !== null && total !== null };
}

/**
 * Every part must be of the version that the file was begun with: a server may ignore If-Range. Without a digest, which would
 * show it in the end, a part that does not tell its version is as bad as one of another.
 */
export function refuseOtherVersion(head: ResponseHead, { file, pinned }: Job): void {
  if (file.validator === null) return;
  const same = isOfVersion(head, file.validator);
  if (same === false || (same === null && !pinned)) throw startOver("the server sent a part of another file");
}

function takeUnsatisfied(head: ResponseHead, { part }: Opening, { file, pinned }: Job): null {
  const total = unsatisfiedTotal(head);
  // Nothing lies beyond what is here: it is complete, and was only never known to be.
  const complete = part !== null && file.total === null && (total === null ? pinned : total === part[0]);
  if (!complete) throw startOver(statusFailure(head, Date.now()).message);
  file.setTotal(part[0]);
  return null;
}

/** A server that handles parts wrongly is asked for the whole from then on, over one connection. */
export class StartOver extends FetchFailure {}

function startOver(reason: string): StartOver {
  return new StartOver(reason, { transient: true });
}
