import { writeSync } from "node:fs";
import type { Writable } from "node:stream";

import { abortable } from "../host/abortable.js";

/** What a pipe takes at once on Linux, whoever reads it. */
const PIPE_SIZE = 64 * 1024;

/** Writes a command's answer to stdout and waits until it is out: the program may end right after. What goes on is for `pump`. */
export async function writeOut(text: string | Uint8Array): Promise<void> {
  let rest = typeof text === "string" ? Buffer.from(text) : text;
  // Making `process.stdout` takes longer than most commands that only look something up: short answers go without it.
  if (rest.length <= PIPE_SIZE) rest = rest.subarray(writeAtOnce(rest));
  if (rest.length === 0) return;
  await new Promise<void>((resolve, reject) => {
    process.stdout.write(rest, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

/** How much of it could be written without waiting. */
function writeAtOnce(bytes: Uint8Array): number {
  let written = 0;
  try {
    while (written < bytes.length) written += writeSync(1, bytes, written);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
  }
  return written;
}

/**
 * Writes out what comes as it comes, and ends when all of it is out. A reader may take its time and even stop: the program goes on
 * meanwhile, and the signal ends it.
 */
export async function pump(
  from: AsyncIterable<Uint8Array | string>,
  to: Writable,
  signal?: AbortSignal,
): Promise<void> {
  for await (const chunk of from) {
    // That nobody takes it any more is told by the stream itself, once for all of them.
    await abortable(new Promise<void>((resolve) => to.write(chunk, () => resolve())), signal);
  }
}

/** Columns as wide as their widest cell; the last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, cell.length);
  }
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return lines.map((line) => `${line}\n`).join("");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

export function formatBytes(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit] ?? ""}`;
}

/** "0.4 s", "12 s", "3:05", "1:02:03". */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, position) => (position === 0 ? String(part) : String(part).padStart(2, "0"))).join(":");
}
