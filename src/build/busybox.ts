import { ImageError } from "../errors.js";

/** Applets begin with these in every build that has a shell's test command; the table is sorted by bytes. */
const FIRST = Buffer.from("\0[\0[[\0", "latin1");
const NAME = /^[a-z0-9_.+[-]{1,31}$/i;
const LEAST = 20;

/**
 * The names of a BusyBox binary's applets, read from its own table, so that the binary need not run here (it may be for another
 * architecture). Source: BusyBox, include/applet_tables.h: names in ascending order, each ended by a NUL.
 */
export function appletNames(binary: Buffer): string[] {
  for (let at = binary.indexOf(FIRST); at !== -1; at = binary.indexOf(FIRST, at + 1)) {
    const names = namesFrom(binary, at + 1);
    if (names.length >= LEAST && names.includes("sh")) return names;
  }
  throw new ImageError("IMAGE_INVALID", "The BusyBox binary has no table of applets.");
}

function namesFrom(binary: Buffer, start: number): string[] {
  const names: string[] = [];
  for (let at = start; ;) {
    const end = binary.indexOf(0, at);
    const name = binary.toString("latin1", at, end === -1 ? at : Math.min(end, at + 64));
    const last = names.at(-1);
    if (!NAME.test(name) || (last !== undefined && name <= last)) return names;
    names.push(name);
    at = end + 1;
  }
}
