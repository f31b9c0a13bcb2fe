import { type BigIntStats, constants, lstatSync, readFileSync, type Stats } from "node:fs";

import { isErrno } from "../../host/errno.js";

/*
 * Looking at files that anybody may have put there: symbolic links are not followed, pipes not waited for, and nothing
 * large is read.
 */

const BYTE_FIELDS = ["dev", "ino", "size", "mtimeNs"] as const;
export const STAT_FIELDS = [...BYTE_FIELDS, "ctimeNs"] as const;
/** What is at a path, a symbolic link not followed; undefined if nothing is, or if a file is where a folder should be. */
export function entryAt(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (isErrno(error, "ENOTDIR")) return undefined;
    throw error;
  }
}

/** The stat of a regular file, not followed if it is a symbolic link; null for anything else. */
export function statOrNull(path: string): BigIntStats | null {
  try {
    const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    return stat?.isFile() ? stat : null;
  } catch (error) {
    if (isErrno(error, "ENOTDIR")) return null; // a file where the image's folder should be
    throw error;
  }
}

/**
 * Whether two looks at a file saw the same bytes, going by what a write changes. Unlike `matchesStat` it allows for a change of
 * its names, which any other process may make at any time.
 */
export function sameBytes(a: BigIntStats | null, b: BigIntStats | null): boolean {
  return a !== null && b !== null && BYTE_FIELDS.every((field) => a[field] === b[field]);
}

/** Whether two looks at a file saw the same one, unchanged in any way. */
export function matchesStat(a: BigIntStats, b: BigIntStats | null): boolean {
  return b !== null && STAT_FIELDS.every((field) => a[field] === b[field]);
}

/** A small regular file's text; null if there is none, if it is something else than a file, or if it is larger than `maxBytes`. */
export function readSmallFile(path: string, maxBytes: number): string | null {
  const stat = entryAt(path);
  if (stat === undefined || !stat.isFile() || stat.size > maxBytes) return null;
  try {
    // O_NONBLOCK: a pipe that someone has put there since must not be waited for.
    const flag = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    // Given all at once, Node reads the file in one step: this is on the way of every use of an image.
    return readFileSync(path, { encoding: "utf8", flag: flag as unknown as string });
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR", "ELOOP", "EISDIR")) return null;
    throw error;
  }
}

/** Parses what `readSmallFile` gave; null for what is not JSON. */
export function parseJson(text: string | null): unknown {
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch {
    return null; // torn or foreign: all the same as not there, and the caller can do without
  }
}
