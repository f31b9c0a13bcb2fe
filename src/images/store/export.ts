import { constants, statSync } from "node:fs";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

import { HostError, ImageError, ValidationError } from "../../errors.js";
import type { ProgressReport } from "../progress.js";
import { NOT_WRITABLE } from "../storage-failure.js";
import { isErrno } from "../../host/errno.js";
import { makeFolder, unique } from "../../host/folder.js";
import { syncFolder, syncHandle } from "./durable.js";
import { ASSET_FILES } from "./layout.js";
import { formatManifest, MANIFEST_FILE } from "./manifest.js";
import { type AssetKind, type AssetRecord, assetsOf, type Extents, type ImageRecord } from "./record.js";
import { findExtents } from "./sparse.js";
import type { ImageStore } from "./store.js";
import { formatHeader, formatPax, formatSparseMap, padding, TAR_BLOCK } from "./tar.js";

const CHUNK = 1024 * 1024;

/**
 * Writes a cached image to one tar archive: its manifest, then its files without their holes. The image is verified in full
 * before, and nobody removes its content meanwhile. A file at `path` is replaced when the archive is complete.
 */
export async function exportImage(
  store: ImageStore,
  name: string,
  path: string,
  signal: AbortSignal | undefined,
  report: ProgressReport,
): Promise<{ readonly path: string; readonly bytes: number }> {
  const target = resolve(path);
  if (statSync(target, { throwIfNoEntry: false })?.isDirectory()) {
    throw new ValidationError(`The archive '${target}' is a folder; allowed is the path of a file.`, {
      details: { path: target },
    });
  }
  const record = await store.read(name);
  if (record === null) throw notCached(name, []);
  const kinds = assetsOf(record).map(([kind]) => kind);
  const lease = await store.leaseForWork(kinds.map((kind) => store.layout.asset(name, kind)));
  try {
    const files = assetsOf(record).map(([kind, asset], index) => ({ kind, asset, path: lease.paths[index] ?? "" }));
    const damaged = await damagedOf(store, files, signal, report);
    if (damaged.length > 0) throw notCached(name, damaged);
    return { path: target, bytes: await writeArchive(record, files, target, signal, report) };
  } finally {
    await lease.release();
  }
}

interface ExportedFile {
  readonly kind: AssetKind;
  readonly asset: AssetRecord;
  readonly path: string;
}

async function damagedOf(
  store: ImageStore,
  files: readonly ExportedFile[],
  signal: AbortSignal | undefined,
  report: ProgressReport,
): Promise<AssetKind[]> {
  const found = await Promise.all(
    files.map(async ({ kind, asset, path }) => {
      // The first half of the work: the other one is writing.
      const onBytes = (bytes: number, total: number): void =>
        report({ asset: kind, phase: "verify", bytes: Math.floor(bytes / 2), total });
      return (await store.digestOf(path, { signal, onBytes })) === asset.contentDigest ? [] : [kind];
    }),
  );
  return found.flat();
}

function notCached(name: string, damaged: readonly AssetKind[]): ImageError {
  return new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not in the cache, or is damaged.`, {
    hint: `Put it right first: smolvm image pull ${name}`,
    details: { name, damaged },
  });
}

async function writeArchive(
  record: ImageRecord,
  files: readonly ExportedFile[],
  target: string,
  signal: AbortSignal | undefined,
  report: ProgressReport,
): Promise<number> {
  const staged = join(dirname(target), `.smolvm-${unique()}.partial`);
  try {
    makeFolder(dirname(target));
    const archive = await open(staged, "wx", 0o644);
    const bytes = await appendAll(archive, record, files, signal, report).catch(async (error: unknown) => {
      await archive.close();
      throw error;
    });
    await syncHandle(archive, signal);
    await rename(staged, target);
    await syncFolder(dirname(target), signal);
    return bytes;
  } catch (error) {
    await rm(staged, { force: true }).catch(() => undefined); // the first failure is the one to tell
    throw exportFailure(error, target);
  }
}

/** Gives how many bytes the archive has. */
async function appendAll(
  archive: FileHandle,
  record: ImageRecord,
  files: readonly ExportedFile[],
  signal: AbortSignal | undefined,
  report: ProgressReport,
): Promise<number> {
  const manifest = Buffer.from(formatManifest(record));
  await append(archive, formatHeader({ name: MANIFEST_FILE, size: manifest.length, type: "0" }));
  await append(archive, manifest, Buffer.alloc(padding(manifest.length)));
  for (const { kind, asset, path } of files) {
    const total = asset.size;
    await appendFile(archive, path, ASSET_FILES[kind], signal, (bytes) =>
      report({ asset: kind, phase: "verify", bytes: Math.floor((total + bytes) / 2), total }),
    );
    report({ asset: kind, phase: "done", bytes: total, total });
  }
  await append(archive, Buffer.alloc(2 * TAR_BLOCK));
  return (await archive.stat()).size;
}

async function appendFile(
  archive: FileHandle,
  path: string,
  name: string,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const source = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { size } = await source.stat();
    const extents = await findExtents(source, size, signal);
    const stored = extents.reduce((sum, [start, end]) => sum + end - start, 0);
    const map = stored === size ? Buffer.alloc(0) : formatSparseMap(extents, size);
    if (map.length > 0) {
      const pax = formatPax({
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": String(size),
      });
      await append(archive, formatHeader({ name: `PaxHeaders/${name}`, size: pax.length, type: "x" }));
      await append(archive, pax, Buffer.alloc(padding(pax.length)));
    }
    const header = { name: map.length > 0 ? `GNUSparseFile.0/${name}` : name, size: map.length + stored, type: "0" };
    await append(archive, formatHeader(header), map);
    await appendRuns(archive, source, extents, signal, onBytes);
    await append(archive, Buffer.alloc(padding(stored)));
  } finally {
    await source.close();
  }
}

async function appendRuns(
  archive: FileHandle,
  source: FileHandle,
  extents: Extents,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (const [start, end] of extents) {
    for (let at = start; at < end;) {
      signal?.throwIfAborted();
      const { bytesRead } = await source.read(buffer, 0, Math.min(CHUNK, end - at), at);
      if (bytesRead === 0) {
        throw new ImageError("IMAGE_CHECKSUM_MISMATCH", "The image was changed while it was exported.", {
          hint: "Put it right, then export it again: smolvm image pull",
        });
      }
      await append(archive, buffer.subarray(0, bytesRead));
      at += bytesRead;
      onBytes(at);
    }
  }
}

async function append(archive: FileHandle, ...pieces: readonly Buffer[]): Promise<void> {
  for (const piece of pieces) await archive.appendFile(piece);
}

function exportFailure(error: unknown, target: string): unknown {
  if (!isErrno(error)) return error;
  if (isErrno(error, "ENOSPC", "EDQUOT")) {
    return new ImageError("IMAGE_NO_SPACE", `No space left for the archive '${target}'.`, {
      hint: "Write it to another disk.",
      details: { path: target },
      cause: error,
    });
  }
  const code = isErrno(error, ...NOT_WRITABLE) ? "HOST_PERMISSION" : "HOST_IO";
  return new HostError(code, `The archive '${target}' can't be written: ${error.message}.`, {
    hint: "Write it to another folder.",
    details: { path: target, errno: error.code },
    cause: error,
  });
}
