import type { Failure } from "./command.js";
import { plainFailure } from "./failure.js";

interface Result {
  readonly command: string;
  readonly exitCode: number;
  readonly data: unknown;
  readonly error: Failure | null;
}

/** The one thing on stdout with `--json`. `ok` is whether the exit status is 0. */
export function envelope({ command, exitCode, data, error }: Result): string {
  const shown = error && plainFailure(error);
  return `${JSON.stringify({ ok: exitCode === 0, command, exitCode, data, error: shown }, plain)}\n`;
}

/** JSON has no place for these, and an error's details may hold anything. */
function plain(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Error) return { name: value.name, message: value.message };
  return value;
}
