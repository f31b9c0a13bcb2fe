/** Whether `error` is the operating system's, and if codes are given, one of those. */
export function isErrno(error: unknown): error is NodeJS.ErrnoException;
export function isErrno(error: unknown, ...codes: readonly string[]): boolean;
export function isErrno(error: unknown, ...codes: readonly string[]): boolean {
  if (!(error instanceof Error) || typeof (error as NodeJS.ErrnoException).errno !== "number") return false;
  return codes.length === 0 || codes.includes((error as NodeJS.ErrnoException).code ?? "");
}
