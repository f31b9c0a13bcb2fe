import { randomBytes } from "node:crypto";
import { createReadStream, createWriteStream, type BigIntStats } from "node:fs";
import {
  chmod,
  lstat,
  lutimes,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  utimes,
} from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { pipeline } from "node:stream/promises";

import { GuestFileError, ValidationError } from "../errors.js";
import { SMALL_FILE, type GuestFiles, type GuestStat } from "../guest/index.js";
import { makeFolder } from "../host/folder.js";
import { printableNote } from "../printable.js";
import { DownloadBudget, type DownloadLimits } from "./download-limit.js";
import { hostFailure } from "./host-failure.js";

/** Files that are on their way at once: enough to hide the round trips of many small ones. */
const PARALLEL = 8;
/** Deeper than any real tree; a guest could nest without end. */
const MAX_DEPTH = 256;
/** Permission bits without set-user-id, set-group-id and sticky. */
const PLAIN_MODE = 0o777;

/** Copies a host's file, link or folder to `target` in the guest. */
export async function uploadTree(
  files: GuestFiles,
  source: string,
  target: string,
  signal?: AbortSignal,
): Promise<void> {
  signal?.throwIfAborted();
  // The path itself may be a symbolic link to what is meant; links further down are copied as links.
  const top = await stat(source, { bigint: true }).catch((error: unknown) => {
    throw new ValidationError(`'${source}' can't be uploaded: ${(error as NodeJS.ErrnoException).code}.`, {
      cause: error,
    });
  });
  await files.mkdir(posix.dirname(target), { recursive: true, signal });
  await onHost(source, () => uploadOne(files, source, target, top, signal));
}

async function uploadOne(
  files: GuestFiles,
  source: string,
  target: string,
  at: BigIntStats,
  signal?: AbortSignal,
): Promise<void> {
  signal?.throwIfAborted();
  const mode = Number(at.mode) & 0o7777;
  if (at.isSymbolicLink()) {
    await files.rm(target, { force: true, signal });
    await files.symlink(await readlink(source), target, { signal });
    await files.lutimes(target, milliseconds(at.atimeNs), milliseconds(at.mtimeNs), { signal });
    return;
  }
  const finish = (): Promise<unknown> =>
    Promise.all([
      files.chmod(target, mode, { signal }),
      files.utimes(target, milliseconds(at.atimeNs), milliseconds(at.mtimeNs), { signal }),
    ]);
  if (at.isFile()) {
    const small = at.size <= SMALL_FILE ? await readFile(source) : null;
    if (small !== null && small.length <= SMALL_FILE) {
      await files.writeFile(target, small, { mode, signal });
      await finish(); // only now: what refused the file may be something else that stands there
      return;
    }
    await pipeline(
      createReadStream(source),
      files.createWriteStream(target, { mode, signal }),
      signal ? { signal } : {},
    );
  } else if (at.isDirectory()) {
    // Writable until everything is in it; its own mode and times come last.
    await makeGuestFolder(files, target, signal);
    const entries = await readdir(source);
    const folders: (() => Promise<void>)[] = [];
    await eachOf(entries, async (name) => {
      const child = join(source, name);
      const found = await lstat(child, { bigint: true });
      const copy = (): Promise<void> => uploadOne(files, child, posix.join(target, name), found, signal);
      if (found.isDirectory()) folders.push(copy);
      else await copy();
    });
    // One after the other, or the number of copies under way would multiply with each level.
    for (const copy of folders) await copy();
  } else {
    throw new ValidationError(`'${source}' is neither a file, nor a folder, nor a symbolic link.`, {
      details: { source },
    });
  }
  await finish();
}

async function makeGuestFolder(files: GuestFiles, path: string, signal?: AbortSignal): Promise<void> {
  try {
    await files.mkdir(path, { mode: 0o755, signal });
  } catch (error) {
    const merges = error instanceof GuestFileError && error.code === "EEXIST";
    if (!merges || (await files.stat(path, { signal })).kind !== "directory") throw error;
  }
}

/** Copies a guest's file, link or folder to `target` on the host. */
export async function downloadTree(
  files: GuestFiles,
  source: string,
  target: string,
  { signal, ...limits }: DownloadLimits & { readonly signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const top = await files.stat(source, { signal });
  const budget = new DownloadBudget(limits);
  budget.countEntries(source, 1);
  await onHost(target, async () => {
    makeFolder(dirname(target));
    await downloadOne(files, source, target, top, 0, budget, signal);
  });
}

async function downloadOne(
  files: GuestFiles,
  source: string,
  target: string,
  at: GuestStat,
  depth: number,
  budget: DownloadBudget,
  signal?: AbortSignal,
): Promise<void> {
  signal?.throwIfAborted();
  if (depth > MAX_DEPTH)
    throw new ValidationError(`'${printableNote(source)}' is nested more than ${MAX_DEPTH} folders deep.`);
  if (at.kind === "directory") {
    await makeHostFolder(target);
    const entries = await files.readdir(source, { signal });
    const names = new Set(entries.map(({ name }) => assertPlainName(name, source)));
    budget.countEntries(source, names.size);
    const folders: (() => Promise<void>)[] = [];
    await eachOf([...names], async (name) => {
      const child = posix.join(source, name);
      const found = await files.lstat(child, { signal });
      const copy = (): Promise<void> => downloadOne(files, child, join(target, name), found, depth + 1, budget, signal);
      if (found.kind === "directory") folders.push(copy);
      else await copy();
    });
    for (const copy of folders) await copy();
    await chmod(target, at.mode & PLAIN_MODE);
    await utimes(target, at.atimeMs / 1000, at.mtimeMs / 1000);
  } else if (at.kind === "symlink") {
    const link = await files.readlink(source, { signal });
    await inPlaceOf(target, async (temporary) => {
      await symlink(link, temporary);
      await lutimes(temporary, at.atimeMs / 1000, at.mtimeMs / 1000);
    });
  } else if (at.kind === "file") {
    await inPlaceOf(target, async (temporary) => {
      const content = files.createReadStream(source, { length: budget.length(at), signal });
      const file = createWriteStream(temporary, { flags: "wx", mode: 0o600 });
      await pipeline(content, budget.meter(source, at), file, signal ? { signal } : {});
      await chmod(temporary, at.mode & PLAIN_MODE);
      await utimes(temporary, at.atimeMs / 1000, at.mtimeMs / 1000);
    });
  } else if (depth === 0) {
    throw new ValidationError(`'${source}' in the guest is a ${at.kind}, which has no content to download.`);
  }
}

/** A folder of the host's own: a symbolic link in its place would lead what is written out of the target. */
async function makeHostFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST" || !(await lstat(path)).isDirectory()) throw error;
  }
}

/** Makes it beside its place and renames it there: nobody sees half of it, and what was there is replaced, never followed. */
async function inPlaceOf(target: string, make: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = join(dirname(target), `.smolvm-${randomBytes(6).toString("hex")}`);
  try {
    await make(temporary);
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

function assertPlainName(name: string, folder: string): string {
  if (name !== "" && name !== "." && name !== ".." && !name.includes("/") && !name.includes("\0")) return name;
  throw new ValidationError(
    `The guest listed a file that can't be: '${printableNote(name)}' in '${printableNote(folder)}'.`,
  );
}

/** Failures of the host's own file system become HostErrors that keep their cause. */
async function onHost(path: string, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    throw hostFailure(error, `Copying to or from '${path}'`);
  }
}

async function eachOf<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const queue = items[Symbol.iterator]();
  let failed = false;
  const worker = async (): Promise<void> => {
    for (const item of queue) {
      if (failed) return;
      try {
        await act(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: Math.min(PARALLEL, items.length) }, worker));
  const failure = results.find((result) => result.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}

function milliseconds(nanoseconds: bigint): number {
  return Number(nanoseconds) / 1e6;
}
