import { ImageStore } from "../images/store/index.js";

/** Clears away the leases of machines that are gone. One that can't be cleared away only keeps an image from being removed. */
export async function dropEndedLeases(cacheDirs: Iterable<string>): Promise<void> {
  for (const cacheDir of new Set(cacheDirs)) {
    await new ImageStore(cacheDir).dropEndedLeases().catch(() => undefined); // `smolvm image prune` says what is wrong with it
  }
}
