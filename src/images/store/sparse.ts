import { constants } from "node:fs";
import { chmod, copyFile, type FileHandle, open, rename, rm, stat } from "node:fs/promises";

import { isErrno } from "../../host/errno.js";
import { unique } from "../../host/folder.js";
import { dataRuns, ExtentCollector } from "../zeros.js";
import { syncFile } from "./durable.js";
import type { Extents } from "./record.js";

/** Bytes copied at a time. */
const CHUNK = 1024 * 1024;

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
        await copyRange(source, target, [start, Math.min(end, size)], options.signal);
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
      await syncFile(copy, options.signal);
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
  [start, end]: readonly [start: number, end: number],
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

async function writeAll(target: FileHandle, data: Buffer, position: number): Promise<void> {
  for (let at = 0; at < data.length;)
    at += (await target.write(data, at, data.length - at, position + at)).bytesWritten;
}

/** Writes at a position what is not zero, in whole blocks of the file. The file's size is the caller's to set in the end. */
export async function writeSparse(target: FileHandle, data: Buffer, position: number): Promise<void> {
  const runs = dataRuns(data, position);
  for (let i = 0; i < runs.length; i += 2) {
    const start = runs[i] ?? 0;
    await writeAll(target, data.subarray(start, runs[i + 1]), position + start);
  }
}

/** Where a file has anything but zeros, in whole blocks but for the last end. */
export async function findExtents(source: FileHandle, size: number, signal?: AbortSignal): Promise<Extents> {
  const collector = new ExtentCollector();
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let position = 0; position < size;) {
    signal?.throwIfAborted();
    const { bytesRead } = await source.read(buffer, 0, CHUNK, position);
    if (bytesRead === 0) break;
    collector.add(buffer.subarray(0, bytesRead), position);
    position += bytesRead;
  }
  return collector.extents;
}
