import type { PartialFile } from "./partial.js";
import type { TransferPolicy } from "./policy.js";

/** One address to fill one file from. */
export interface Job {
  readonly url: string;
  readonly file: PartialFile;
  /** Whether a digest will judge the bytes: then any server may deliver them. */
  readonly pinned: boolean;
  /** One response for the whole file, as nothing else brought the right bytes. */
  readonly plain: boolean;
  readonly policy: TransferPolicy;
  readonly signal: AbortSignal;
  /** Called as bytes arrive. */
  readonly onBytes: () => void;
}

/**
 * Knows one kind of address: makes `file` complete, going on from what it holds where that is safe. Rejects with a
 * FetchFailure for what the other side did; other errors are of this machine.
 */
export type Scheme = (job: Job) => Promise<void>;
