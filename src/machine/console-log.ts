import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { open, rename, rm, stat, truncate, writeFile } from "node:fs/promises";
import { addAbortSignal, Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

import { isErrno } from "../host/errno.js";
import { unique } from "../host/folder.js";
import { printable } from "../printable.js";

/** The file is cut when it is longer, and begun anew with each run: what was there is kept once, as `console.log.1`. */
const ROTATE_BYTES = 1024 * 1024;
const ROTATE_MS = 2000;
const FOLLOW_POLL_MS = 100;
const CHUNK = 64 * 1024;

/** The console so far, at most the last megabyte of it. Control bytes of terminals are left in. */
export function readConsole(path: string): string {
  return readSoFar(path).bytes.toString("utf8");
}

/** `end` is where in the file what comes later begins. */
function readSoFar(path: string): { readonly bytes: Buffer; readonly end: number } {
  const { bytes, end } = readTail(path, ROTATE_BYTES);
  const missing = ROTATE_BYTES - bytes.length;
  const earlier = missing > 0 ? readTail(`${path}.1`, missing).bytes : Buffer.alloc(0);
  return { bytes: Buffer.concat([earlier, bytes]), end };
}

/** The last lines that say something, oldest first, without carriage returns and terminal sequences. */
export function consoleTail(path: string, lines: number): readonly string[] {
  return readTail(path, 64 * 1024)
    .bytes.toString("utf8")
    .split("\n")
    .map(printable)
    .filter((line) => line !== "")
    .slice(-lines);
}

function readTail(path: string, most: number): { readonly bytes: Buffer; readonly end: number } {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch {
    return { bytes: Buffer.alloc(0), end: 0 }; // no console yet
  }
  try {
    const { size } = fstatSync(file);
    const buffer = Buffer.alloc(Math.min(size, most));
    const length = readSync(file, buffer, 0, buffer.length, size - buffer.length);
    return { bytes: buffer.subarray(0, length), end: size - buffer.length + length };
  } finally {
    closeSync(file);
  }
}

/**
 * Keeps the file bounded. QEMU appends to it, so it can be cut under QEMU's hands; and by several programs at once, as each that
 * is connected does.
 */
export async function rotateConsole(path: string): Promise<void> {
  const copy = `${path}.${unique()}`;
  try {
    if ((await stat(path)).size <= ROTATE_BYTES) return;
    // Not by copyFile, which never ends when another program cuts the file under it.
    const { bytes } = readTail(path, ROTATE_BYTES);
    if (bytes.length < ROTATE_BYTES) return; // cut just now: what is to be kept is what that program keeps
    await writeFile(copy, bytes, { mode: 0o600 });
    // Another one was quicker: what has come since is in nobody's copy.
    if ((await stat(path)).size <= ROTATE_BYTES) return;
    await truncate(path, 0);
    await rename(copy, `${path}.1`);
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error; // the machine was deleted meanwhile
  } finally {
    await rm(copy, { force: true });
  }
}

/** Whoever is connected to a machine keeps its console short: a detached one's maker may be gone. */
export function keepConsoleShort(path: string): Disposable {
  const timer = setInterval(() => {
    rotateConsole(path).catch(() => undefined); // tried again soon
  }, ROTATE_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** Sets the last run's console aside, as `console.log.1`: how a run ended is told from its own lines. */
export async function beginConsole(path: string): Promise<void> {
  try {
    if ((await stat(path)).size > 0) await rename(path, `${path}.1`);
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error; // it has not run yet
  }
}

/** The console so far, at most its last megabyte, and on as it grows, until `ended` says that no more will come, or the signal. */
export function followConsole(path: string, ended: () => boolean, signal?: AbortSignal): Readable {
  // A stream waits for its source before it closes, so the source has to look whether anybody still reads.
  const stream: Readable = Readable.from(
    follow(path, () => stream.destroyed || ended()),
    { objectMode: false },
  );
  return signal === undefined ? stream : addAbortSignal(signal, stream);
}

async function* follow(path: string, ended: () => boolean): AsyncGenerator<Buffer> {
  const before = readSoFar(path);
  let position = before.end;
  if (before.bytes.length > 0) yield before.bytes;
  for (;;) {
    const last = ended();
    const size = await sizeOf(path);
    if (size < position) position = 0; // it has been cut
    while (position < size) {
      const chunk = await readChunk(path, position, Math.min(CHUNK, size - position));
      if (chunk.length === 0) break;
      position += chunk.length;
      yield chunk;
    }
    if (last) return;
    await sleep(FOLLOW_POLL_MS);
  }
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}

async function readChunk(path: string, position: number, length: number): Promise<Buffer> {
  const file = await open(path, "r").catch(() => null);
  if (file === null) return Buffer.alloc(0); // deleted with its machine
  try {
    const buffer = Buffer.alloc(length);
    const { bytesRead } = await file.read(buffer, 0, length, position);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
