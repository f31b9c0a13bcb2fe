import { join } from "node:path";

import { machinesDir } from "../../host/home.js";
import { isErrno } from "../../host/errno.js";
import { NOT_WRITABLE } from "../storage-failure.js";
import type { Catalog } from "./catalog.js";
import { type Rooms, underCommitLock } from "./commit.js";
import type { Leases } from "./leases.js";
import { statOrNull } from "./look.js";

export interface Lease {
  /** The leased paths in the order given: the immutable blob of a cached image's file, any other path unchanged. */
  readonly paths: readonly string[];
  release(): Promise<void>;
}

/**
 * Leases what paths name to a machine, or to a piece of work of this process where `vmId` is null. It lasts until it is released, or
 * until both this process and the machine's folder are gone. In a cache that can't be written nothing can be removed either, and
 * nothing is recorded.
 */
export async function leasePaths(
  rooms: Rooms,
  catalog: Catalog,
  leases: Leases,
  paths: readonly string[],
  vmId: string | null,
): Promise<Lease> {
  const leased = paths.map((path) => ({ path, content: catalog.contentAt(path) }));
  const digests = leased.flatMap(({ content }) => content?.digest ?? []);
  const images = [...new Set(leased.flatMap(({ content }) => content?.image ?? []))];
  let release: (() => void) | null = null as (() => void) | null;
  try {
    if (digests.length > 0) {
      await underCommitLock(rooms, async (held) => {
        release?.(); // of a try whose lock was lost
        release = leases.take(digests, { vmId, folder: vmId === null ? null : join(machinesDir(), vmId), images });
        held.assert();
        for (const { path, content } of leased) if (content !== null) await ensureBlob(rooms, path, content.digest);
      });
    }
  } catch (error) {
    release?.();
    if (!isErrno(error, ...NOT_WRITABLE)) throw error;
  }
  return {
    paths: leased.map(({ path, content }) => (content === null ? path : blobBehind(rooms, path, content.digest))),
    release: () => {
      release?.();
      return Promise.resolve();
    },
  };
}

/** A prune may have taken the blob of an image that nobody used, and a user may have. */
async function ensureBlob({ layout, blobs, temporary }: Rooms, path: string, digest: string): Promise<void> {
  if (statOrNull(layout.blob(digest)) !== null || statOrNull(path) === null) return;
  await blobs.publishLink(path, digest, temporary.path(digest));
}

/** A verified file's blob, if that is the same file and not a copy that was never read. */
function blobBehind({ layout }: Rooms, path: string, digest: string): string {
  const [blob, file] = [layout.blob(digest), statOrNull(path)];
  const stat = statOrNull(blob);
  return stat !== null && stat.ino === file?.ino && stat.dev === file.dev ? blob : path;
}
