import type { AssetKind } from "./store/index.js";

/** What an `onProgress` callback is told. */
export interface ImageProgress {
  readonly image: string;
  readonly asset: AssetKind;
  readonly phase: "download" | "verify" | "done";
  readonly bytes: number;
  /** Null while it is not known. */
  readonly total: number | null;
}

export type ProgressCallback = (progress: ImageProgress) => void;
export type ProgressReport = (report: Pick<ImageProgress, "asset" | "phase" | "bytes" | "total">) => void;

function ignore(): void {
  // Nobody wants to know.
}

/** The least time between two calls for one asset. */
const INTERVAL_MS = 50;
/** A callback may take this share of the time: one that took 10 ms is not called again for 90 ms. */
const REST_FACTOR = 9;

/**
 * Tells a caller's callback how far an image is. The callback can do no harm: it is called now and then only, less often the longer
 * it takes, and what it throws or rejects with is dropped. The end of an asset is always told.
 */
export function progressTo(image: string, callback: ProgressCallback | undefined): ProgressReport {
  if (callback === undefined) return ignore;
  const told: (progress: ImageProgress) => unknown = callback;
  const rests = new Map<string, number>();
  return (report) => {
    const called = performance.now();
    const key = `${report.asset} ${report.phase}`;
    if (report.phase !== "done" && called < (rests.get(key) ?? 0)) return;
    try {
      const answer = told({ image, ...report });
      // A callback that is an async function is not waited for, but its failure must not end the process.
      if (answer instanceof Promise) answer.catch(ignore);
    } catch {
      // It is the caller's display that failed, not the transfer.
    }
    const returned = performance.now();
    rests.set(key, returned + Math.max(INTERVAL_MS, REST_FACTOR * (returned - called)));
  };
}
