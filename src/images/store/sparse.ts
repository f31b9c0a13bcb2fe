import { constants } from "node:fs";
import { chmod, copyFile, type FileHandle, open, rename, rm, stat } from "node:fs/promises";

import { isErrno } from "../../host/errno.js";
import { unique } from "../../host/folder.js";
import { syncFile } from "./durable.js";
import type { Extents } from "./record.js";

/** Bytes copied at a time. */
const CHUNK = 1024 * 1024;
/** Zeros are left out in this unit: the block size of the usual file systems. */
const BLOCK = 4096;
const ZEROS = Buffer.alloc(BLOCK);

export interface CopyOptions {
  /** Where `from` has data, if that is known: the rest is not even read. */
  readonly extents?: Extents | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Copies a file and keeps its holes, which `fs.copyFile` fills: a reflink where the file system has them, else the given
 * extents, else whatever is not zero. `to` must not exist; after a failure it does not.
 */
export async function copySparse(from: string, to: string, options: CopyOptions = {}): Promise<void> {
  options.signal?.throwIfAborted();
  if (await reflink(from, to)) return;
  const source = await open(from, constants.O_RDONLY);
  try {
    const target = await open(to, "wx", 0o644);
    try {
      const { size } = await source.stat();
      for (const [start, end] of options.extents ?? [[0, size] as const]) {
        await copyRange(source, target, start, Math.min(end, size), options.signal);
      }
      await target.truncate(size);
    } catch (error) {
      await rm(to, { force: true });
      throw error;
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

/** Renames a file over whatever is at `to`; across file systems, copies it with its holes kept and renames the copy. */
export async function moveFile(from: string, to: string, options: CopyOptions = {}): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if (!isErrno(error, "EXDEV")) throw error;
    const copy = `${to}.${unique()}.tmp`;
    await copySparse(from, copy, options);
    try {
      const { mode } = await stat(from);
      await chmod(copy, mode & 0o777);
      syncFile(copy);
      await rename(copy, to);
    } catch (failure) {
      await rm(copy, { force: true });
      throw failure;
    }
    await rm(from);
  }
}

async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch (error) {
    // What a system answers that can't clone at all, or not between these two places.
    if (!isErrno(error, "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EXDEV", "EINVAL", "ENOTTY", "EPERM")) throw error;
    await rm(to, { force: true });
    return false;
  }
}

async function copyRange(
  source: FileHandle,
  target: FileHandle,
  start: number,
  end: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(CHUNK, Math.max(end - start, 0)));
  for (let at = start; at < end;) {
    signal?.throwIfAborted();
    const { bytesRead } = await source.read(buffer, 0, Math.min(buffer.length, end - at), at);
    if (bytesRead === 0) return;
    await writeSparse(target, buffer.subarray(0, bytesRead), at);
    at += bytesRead;
  }
}

/** Writes at a position what is not zero, in whole blocks of the buffer. The file's size is the caller's to set in the end. */
export async function writeSparse(target: FileHandle, data: Buffer, position: number): Promise<void> {
  for (const [start, end] of dataRuns(data)) {
    for (let at = start; at < end;) at += (await target.write(data, at, end - at, position + at)).bytesWritten;
  }
}

function* dataRuns(data: Buffer): Generator<[start: number, end: number]> {
  for (let start = 0; start < data.length;) {
    if (isZero(data, start)) {
      start += BLOCK;
      continue;
    }
    let end = start + BLOCK;
    while (end < data.length && !isZero(data, end)) end += BLOCK;
    yield [start, Math.min(end, data.length)];
    start = end;
  }
}

function isZero(data: Buffer, start: number): boolean {
  const end = Math.min(start + BLOCK, data.length);
  return data.compare(ZEROS, 0, end - start, start, end) === 0;
}

/** Where a file has anything but zeros, in whole blocks but for the last end. */
export async function findExtents(source: FileHandle, size: number, signal?: AbortSignal): Promise<Extents> {
  const extents: [number, number][] = [];
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let position = 0; position < size;) {
    signal?.throwIfAborted();
    const { bytesRead } = await source.read(buffer, 0, CHUNK, position);
    if (bytesRead === 0) break;
    for (const [start, end] of dataRuns(buffer.subarray(0, bytesRead))) {
      const last = extents.at(-1);
      if (last?.[1] === position + start) last[1] = position + end;
      else extents.push([position + start, position + end]);
    }
    position += bytesRead;
  }
  return extents;
}
