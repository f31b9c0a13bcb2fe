import { constants } from "node:fs";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname, resolve } from "node:path";

import { HostError, ImageError } from "../../errors.js";
import type { ProgressReport } from "../progress.js";
import { isErrno } from "../../host/errno.js";
import { makeFolder, unique } from "../../host/folder.js";
import { syncFolder } from "./durable.js";
import { ASSET_FILES } from "./layout.js";
import { formatManifest, MANIFEST_FILE } from "./manifest.js";
import { assetsOf, type Extents } from "./record.js";
import { findExtents } from "./sparse.js";
import type { ImageStore } from "./store.js";
import { formatHeader, formatPax, formatSparseMap, padding, TAR_BLOCK } from "./tar.js";

const CHUNK = 1024 * 1024;

/**
 * Writes a cached image to one tar archive: its manifest, then its files without their holes. The image is verified in full
 * before. A file at `path` is replaced when the archive is complete.
 */
export async function exportImage(
  store: ImageStore,
  name: string,
  path: string,
  signal: AbortSignal | undefined,
  report: ProgressReport,
): Promise<{ readonly path: string; readonly bytes: number }> {
  const target = resolve(path);
  const image = await store.open(name, {
    verify: "full",
    signal,
    onBytes: (asset, bytes, total) => report({ asset, phase: "verify", bytes, total }),
  });
  const record = await store.read(name);
  if (image === null || record === null || "damaged" in image) {
    throw new ImageError("IMAGE_NOT_CACHED", `Image '${name}' is not in the cache, or is damaged.`, {
      hint: `Put it right first: smolvm image pull ${name}`,
      details: { name, damaged: image !== null && "damaged" in image ? image.damaged : [] },
    });
  }
  const staged = `${target}.${unique()}.partial`;
  try {
    makeFolder(dirname(target));
    const archive = await open(staged, "wx", 0o644);
    let bytes: number;
    try {
      const manifest = Buffer.from(formatManifest(record));
      await append(archive, formatHeader({ name: MANIFEST_FILE, size: manifest.length, type: "0" }));
      await append(archive, manifest, Buffer.alloc(padding(manifest.length)));
      for (const [kind, { size }] of assetsOf(record)) {
        await appendFile(archive, store.layout.asset(name, kind), ASSET_FILES[kind], signal);
        report({ asset: kind, phase: "done", bytes: size, total: size });
      }
      await append(archive, Buffer.alloc(2 * TAR_BLOCK));
      await archive.sync();
      bytes = (await archive.stat()).size;
    } finally {
      await archive.close();
    }
    await rename(staged, target);
    await syncFolder(dirname(target));
    return { path: target, bytes };
  } catch (error) {
    await rm(staged, { force: true }).catch(() => undefined); // the first failure is the one to tell
    throw exportFailure(error, target);
  }
}

async function appendFile(
  archive: FileHandle,
  path: string,
  name: string,
  signal: AbortSignal | undefined,
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
    await appendRuns(archive, source, extents, signal);
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
): Promise<void> {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (const [start, end] of extents) {
    for (let at = start; at < end;) {
      signal?.throwIfAborted();
      const { bytesRead } = await source.read(buffer, 0, Math.min(CHUNK, end - at), at);
      if (bytesRead === 0) throw new Error("the image changed while it was read");
      await append(archive, buffer.subarray(0, bytesRead));
      at += bytesRead;
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
  const code = isErrno(error, "EACCES", "EPERM", "EROFS") ? "HOST_PERMISSION" : "HOST_IO";
  return new HostError(code, `The archive '${target}' can't be written: ${error.message}.`, {
    hint: "Write it to another folder.",
    details: { path: target, errno: error.code },
    cause: error,
  });
}
