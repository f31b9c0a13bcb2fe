import { UsageError } from "./failure.js";

/* What stands behind an option is read once, here, into the unit that the library takes. */

function wrong(option: string, text: string, allowed: string): UsageError {
  return new UsageError(`${option}: '${text}' is not ${allowed}.`, { details: { option, value: text } });
}

export function integer(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text)) throw wrong(option, text, "a whole number");
  return Number(text);
}

const MEBIBYTES: Readonly<Record<string, number>> = { "": 1, m: 1, mib: 1, g: 1024, gib: 1024 };

/** "512", "512m" and "1g", in MiB. */
export function mebibytes(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const [, number = "", unit = ""] = /^(\d{1,9})\s*(|m|mib|g|gib)$/i.exec(text) ?? [];
  if (number === "") throw wrong(option, text, "a number of MiB, such as 512 or 2g");
  return Number(number) * (MEBIBYTES[unit.toLowerCase()] ?? 1);
}

const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, "": 1000, s: 1000, m: 60_000, h: 3_600_000 };

/** "30" and "30s", "500ms", "5m", "1h", in milliseconds. */
export function milliseconds(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const [, number = "", unit = ""] = /^(\d{1,9}(?:\.\d+)?)(|ms|s|m|h)$/.exec(text) ?? [];
  const value = Math.round(Number(number) * (MILLISECONDS[unit] ?? 1000));
  // The longest that a timer of Node takes is 2^31 - 1 milliseconds.
  if (number === "" || value < 1 || value > 2 ** 31 - 1) {
    throw wrong(option, text, "a time such as 30 (seconds), 500ms, 5m or 1h");
  }
  return value;
}

export function oneOf<T extends string>(
  option: string,
  text: string | undefined,
  allowed: readonly T[],
): T | undefined {
  if (text === undefined) return undefined;
  const found = allowed.find((value) => value === text);
  if (found === undefined) throw wrong(option, text, `one of ${allowed.join(", ")}`);
  return found;
}

/** "K=V" as it is; "K" alone takes the value that smolvm's own environment has, and is left out where it has none. */
export function environment(entries: readonly string[]): Record<string, string> {
  const env: Record<string, string> = {};
  for (const entry of entries) {
    const [name = ""] = entry.split("=", 1);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw wrong("--env", entry, "NAME=VALUE");
    const value = entry.length > name.length ? entry.slice(name.length + 1) : process.env[name];
    if (value !== undefined) env[name] = value;
  }
  return env;
}

export interface PortPair {
  /** Undefined: any free one. */
  readonly host: number | undefined;
  readonly guest: number;
}

/** "8080:80", or "80" for any free port of the host. */
export function portPair(option: string, text: string): PortPair {
  const [, host, guest] = /^(?:(\d{1,5}):)?(\d{1,5})$/.exec(text) ?? [];
  const valid = (port: string): boolean => Number(port) >= 1 && Number(port) <= 65535;
  if (guest === undefined || !valid(guest) || (host !== undefined && !valid(host))) {
    throw wrong(option, text, "HOST:GUEST, two ports from 1 to 65535, or GUEST alone");
  }
  return { host: host === undefined ? undefined : Number(host), guest: Number(guest) };
}

export interface CopyPair {
  readonly from: string;
  readonly to: string;
}

/** "./src:/job" */
export function copyPair(option: string, text: string): CopyPair {
  const [, from, to] = /^(.+):(\/.*)$/s.exec(text) ?? [];
  if (from === undefined || to === undefined) {
    throw wrong(option, text, "HOST:GUEST, a path here and an absolute path in the machine");
  }
  return { from, to };
}
