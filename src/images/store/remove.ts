import { readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

import { ImageError } from "../../errors.js";
import { type Held, otherNameAt, type Rooms, sameFolder } from "./commit.js";
import { unique } from "../../host/folder.js";
import type { LeaseRecord, Leases } from "./leases.js";
import { ASSET_FILES, RECORD_FILE } from "./layout.js";
import { entryAt } from "./look.js";
import { unusedBlobs, weigh } from "./prune.js";
import { assetsOf, readRecord } from "./record.js";

export interface Removal {
  /** Disk space in bytes that is free now. */
  readonly freedBytes: number;
  /** What else was in the image's folder, absolute paths: it is somebody else's and stays. */
  readonly kept: readonly string[];
}

/** Takes an image's name away, and says what its content was. The caller holds the commit lock. */
export async function takeAway(
  rooms: Rooms,
  leases: Leases,
  held: Held,
  name: string,
): Promise<{ readonly digests: readonly string[]; readonly kept: readonly string[] }> {
  const { layout, stamps } = rooms;
  const other = otherNameAt(layout, name);
  if (other !== null) throw sameFolder(name, other);
  const machines = machinesUsing(leases.surveyAll().live, name);
  if (machines.length > 0) throw inUse(name, machines);
  const folder = layout.image(name);
  if (entryAt(folder) === undefined) throw notCached(name, layout.root);
  const record = readRecord(layout.record(name), name);
  const digests = record === null ? [] : assetsOf(record).map(([, asset]) => asset.contentDigest);
  const foreign = entryAt(folder)?.isDirectory() ? readdirSync(folder).filter((file) => !isOwn(file)) : [];
  const restamp = stamps.carry(digests.map((digest) => ({ digest, path: layout.blob(digest) })));
  held.assert();
  if (foreign.length > 0) {
    // Without its record it is no image any more, only files that anybody could have put there.
    for (const file of [RECORD_FILE, ...Object.values(ASSET_FILES)]) removeOwn(join(folder, file));
    for (const file of readdirSync(folder)) if (isOwn(file)) removeOwn(join(folder, file));
  } else {
    // One rename takes the whole image away, so that no half of it is ever seen.
    const leaving = layout.removed(unique());
    renameSync(folder, leaving);
    removeOwn(leaving);
  }
  await restamp();
  return { digests, kept: foreign.map((file) => join(folder, file)) };
}

/** Removes what of the content nothing uses, and gives the space that this freed. The caller holds the commit lock. */
export function dropUnused(rooms: Rooms, leases: Leases, held: Held, digests: readonly string[]): number {
  const leased = new Set(leases.surveyAll().live.flatMap((lease) => lease.digests));
  const unused = weigh(unusedBlobs(rooms, leased, digests));
  for (const { path } of unused) {
    held.assert();
    removeOwn(path);
  }
  return unused.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0);
}

function removeOwn(path: string): void {
  rmSync(path, { recursive: true, force: true });
}

const OWN: readonly string[] = [RECORD_FILE, ...Object.values(ASSET_FILES)];

/** Whether a file of that name in an image's folder is part of it, or what a killed process left of such a part. */
function isOwn(file: string): boolean {
  return OWN.includes(file.replace(/\.[0-9a-f]{16}\.tmp$/, ""));
}

export function machinesUsing(leases: readonly LeaseRecord[], image: string): string[] {
  return leases.filter(({ images }) => images.includes(image)).flatMap(({ vmId }) => vmId ?? []);
}

function notCached(name: string, cacheDir: string): ImageError {
  return new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not in the cache.`, {
    hint: "List what is there with: smolvm image ls",
    details: { name, cacheDir },
  });
}

function inUse(name: string, machines: readonly string[]): ImageError {
  const ids = machines.map((id) => `'${id}'`).join(", ");
  return new ImageError("IMAGE_IN_USE", `Image '${name}' is in use by ${ids}.`, {
    hint: `Delete the machine first: smolvm rm ${machines[0] ?? ""}`,
    details: { name, machines },
  });
}
