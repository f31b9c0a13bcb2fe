import { constants } from "node:fs";
import { open, rm } from "node:fs/promises";

import { ImageError, ValidationError } from "../../errors.js";
import { assertImageName } from "../name.js";
import type { ProgressReport } from "../progress.js";
import type { LocalImage } from "../source.js";
import { isErrno } from "../../host/errno.js";
import { assertSpace } from "../free-space.js";
import { ArchiveReader, type ArchiveMember } from "./archive-reader.js";
import { hashFile } from "./hash.js";
import { MANIFEST_FILE, MAX_MANIFEST_BYTES, membersOf, parseManifest } from "./manifest.js";
import { assetsOf, type AssetKind, type AssetRecord, type Extents, type ImageRecord } from "./record.js";
import type { ImageStore } from "./store.js";

/** The largest file that is taken, in apparent bytes: what a download may unpack to as well. */
const MAX_ASSET_BYTES = 64 * 2 ** 30;

export interface ImportOptions {
  readonly name: string | undefined;
  readonly force: boolean;
  /** Believe the archive in what nothing here can prove: see `claims`. */
  readonly trust: boolean;
  readonly signal: AbortSignal | undefined;
  readonly reportTo: (image: string) => ProgressReport;
}

/**
 * Takes an image from an archive. The archive is not trusted: only the members that its manifest names are taken, each once, as plain
 * files under names of our own, each held against its size and its SHA-256 before the image is made visible.
 */
export async function importImage(store: ImageStore, path: string, options: ImportOptions): Promise<LocalImage> {
  const { signal } = options;
  signal?.throwIfAborted();
  const file = await openArchive(path);
  try {
    const reader = new ArchiveReader(file, path, signal);
    const archived = await readManifest(reader);
    const name = options.name ?? archived.name;
    assertImageName(name);
    const installed = await store.read(name);
    if (installed !== null && !sameContent(installed, archived) && !options.force) throw taken(name);
    const report = options.reportTo(name);
    return await store.installing(name, signal, async (installation) => {
      const taken = new Map<AssetKind, TakenMember>();
      try {
        await takeMembers({ store, reader, archived, report, signal }, taken);
        // Not before all of it is here and right: of a bad archive nothing is left.
        for (const { path: file, digest, extents } of taken.values()) await installation.publish(file, digest, extents);
      } finally {
        for (const { path: file } of taken.values()) await rm(file, { force: true });
      }
      const assets = Object.fromEntries(assetsOf(archived).map(([kind, asset]) => [kind, claims(asset, options)]));
      const origin = { kind: "imported", details: { from: archived.origin.kind } } as const;
      await installation.commit(name, { assets, bootArgs: archived.bootArgs, origin });
    });
  } finally {
    await file.close();
  }
}

async function openArchive(path: string) {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if ((await file.stat()).isFile()) return file;
    await file.close();
  } catch (error) {
    if (!isErrno(error)) throw error;
    throw new ValidationError(`The archive '${path}' can't be read: ${error.message}.`, {
      details: { path },
      cause: error,
    });
  }
  throw new ValidationError(`The archive '${path}' is not a regular file.`, { details: { path } });
}

async function readManifest(reader: ArchiveReader): Promise<ImageRecord> {
  const member = await reader.next();
  if (member?.name !== MANIFEST_FILE || member.sparse || member.size > MAX_MANIFEST_BYTES) {
    throw reader.invalid(`it does not begin with ${MANIFEST_FILE}`);
  }
  const record = parseManifest((await reader.content(member)).toString("utf8"));
  if (typeof record === "string") throw reader.invalid(record);
  // The holes of a file cost an archive nothing, but whoever takes it has to hash them.
  const [large] = assetsOf(record).find(([, { size }]) => size > MAX_ASSET_BYTES) ?? [];
  if (large !== undefined) throw reader.invalid(`its ${large} is larger than ${MAX_ASSET_BYTES / 2 ** 30} GiB`);
  return record;
}

interface TakenMember {
  readonly path: string;
  readonly digest: string;
  readonly extents: Extents;
}

interface Import {
  readonly store: ImageStore;
  readonly reader: ArchiveReader;
  readonly archived: ImageRecord;
  readonly report: ProgressReport;
  readonly signal: AbortSignal | undefined;
}

async function takeMembers({ store, reader, archived, report, signal }: Import, taken: Map<AssetKind, TakenMember>) {
  const expected = membersOf(archived);
  for (let member; (member = await reader.next()) !== null;) {
    const { name, size, extents } = member;
    const wanted = expected.get(name);
    if (wanted === undefined) throw reader.invalid(`it has a member '${name}' that its manifest does not name`);
    const { kind, asset } = wanted;
    if (taken.has(kind)) throw reader.invalid(`it has the member '${name}' twice`);
    if (size !== asset.size) throw reader.invalid(`'${name}' has ${size} bytes, and its manifest says ${asset.size}`);
    const path = await store.temporaryFile(name);
    taken.set(kind, { path, digest: asset.contentDigest, extents });
    await extract(store, reader, member, path);
    const hashed = await hashFile(path, {
      signal,
      onBytes: (bytes, total) => report({ asset: kind, phase: "verify", bytes, total }),
    });
    const actual = hashed?.digest ?? null;
    if (actual !== asset.contentDigest) throw mismatch(reader, member, asset.contentDigest, actual);
    report({ asset: kind, phase: "done", bytes: size, total: size });
  }
  for (const [kind] of assetsOf(archived)) if (!taken.has(kind)) throw reader.invalid(`it lacks the ${kind}`);
}

/**
 * What is believed of an archive's word on an asset. That the bytes at an address had some other digest, before they were
 * unpacked, nobody can check here; believing it lets the archive pass for an image whose digest is pinned. That is for the
 * user to say.
 */
function claims(asset: AssetRecord, { trust }: ImportOptions): AssetRecord {
  return trust || asset.digest === asset.contentDigest ? asset : { ...asset, digest: null };
}

async function extract(store: ImageStore, reader: ArchiveReader, member: ArchiveMember, path: string): Promise<void> {
  assertSpace(store.cacheDir, member.storedBytes);
  const target = await open(path, "wx", 0o644);
  try {
    await reader.extractTo(member, target);
  } finally {
    await target.close();
  }
}

function sameContent(a: ImageRecord, b: ImageRecord): boolean {
  const digests = (record: ImageRecord) =>
    assetsOf(record)
      .map(([kind, { contentDigest }]) => `${kind} ${contentDigest}`)
      .join();
  return digests(a) === digests(b);
}

function taken(name: string): ImageError {
  return new ImageError("IMAGE_INVALID", `An image '${name}' with other content is in the cache already.`, {
    hint: "Import it under another name (--name), or replace the one that is there (--force).",
    details: { name },
  });
}

function mismatch(reader: ArchiveReader, member: ArchiveMember, expected: string, actual: string | null): ImageError {
  return new ImageError(
    "IMAGE_CHECKSUM_MISMATCH",
    `SHA-256 mismatch for '${member.name}' in '${reader.path}'\n  expected: ${expected}\n  actual:   ${actual ?? "(not readable)"}`,
    { details: { path: reader.path, member: member.name, expected, actual } },
  );
}
