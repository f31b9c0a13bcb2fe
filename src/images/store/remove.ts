import { renameSync, rmSync } from "node:fs";

import { ImageError } from "../../errors.js";
import type { Rooms } from "./commit.js";
import { unique } from "../../host/folder.js";
import type { LeaseRecord, Leases } from "./leases.js";
import { entryAt } from "./look.js";
import { unusedBlobs, weigh } from "./prune.js";
import { assetsOf, readRecord } from "./record.js";

/** Removes an image, and what of its content nothing else uses. The caller holds the commit lock. */
export async function removeImage(
  rooms: Rooms,
  leases: Leases,
  name: string,
): Promise<{ readonly freedBytes: number }> {
  const { layout, stamps } = rooms;
  const { live } = leases.surveyAll();
  const machines = machinesUsing(live, name);
  if (machines.length > 0) throw inUse(name, machines);
  const folder = layout.image(name);
  if (entryAt(folder) === undefined) {
    throw new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not in the cache.`, {
      details: { name, cacheDir: layout.root },
    });
  }
  const record = readRecord(layout.record(name), name);
  const digests = record === null ? [] : assetsOf(record).map(([, asset]) => asset.contentDigest);
  const restamp = stamps.carry(digests.map((digest) => ({ digest, path: layout.blob(digest) })));
  // One rename takes the whole image away, so that no half of it is ever seen.
  const leaving = layout.removed(unique());
  renameSync(folder, leaving);
  rmSync(leaving, { recursive: true, force: true });
  const unused = weigh(unusedBlobs(rooms, new Set(live.flatMap((lease) => lease.digests)), digests));
  for (const { path } of unused) rmSync(path, { force: true });
  await restamp();
  return { freedBytes: unused.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0) };
}

export function machinesUsing(leases: readonly LeaseRecord[], image: string): string[] {
  return leases.filter(({ images }) => images.includes(image)).flatMap(({ vmId }) => vmId ?? []);
}

function inUse(name: string, machines: readonly string[]): ImageError {
  const ids = machines.map((id) => `'${id}'`).join(", ");
  return new ImageError("IMAGE_IN_USE", `Image '${name}' is in use by ${ids}.`, {
    hint: `Delete the machine first: smolvm rm ${machines[0] ?? ""}`,
    details: { name, machines },
  });
}
