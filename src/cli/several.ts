import type { Failure, Invocation, Outcome } from "./command.js";
import { describeFailure, plainFailure, printFailure, STATUS } from "./failure.js";
import { writeOut } from "./output.js";

/** What became of one of several that a command was given. */
interface Done<Told> {
  readonly ok: boolean;
  readonly told: Told | null;
  readonly error: ReturnType<typeof plainFailure> | null;
}

/**
 * Does one thing to each name, in the order given. The action gives what there is to tell of it, or null where it does not count. A line
 * of each that is done is printed at once; one that fails is told of, and does not keep it from the others.
 */
export async function forEachName<Told extends object>(
  names: readonly string[],
  { json, debug, signal }: Invocation,
  action: (name: string) => Promise<Told | null>,
  line: (name: string, told: Told) => string = (name) => name,
): Promise<Outcome & { readonly done: ReadonlyMap<string, Done<Told>> }> {
  const done = new Map<string, Done<Told>>();
  const failures: Failure[] = [];
  for (const name of new Set(names)) {
    signal.throwIfAborted();
    let told: Told | null;
    try {
      told = await action(name);
    } catch (error) {
      signal.throwIfAborted();
      const failure = describeFailure(error, STATUS.failed);
      printFailure(failure, debug ? error : undefined);
      failures.push(failure);
      done.set(name, { ok: false, told: null, error: plainFailure(failure) });
      continue;
    }
    if (told === null) continue;
    done.set(name, { ok: true, told, error: null });
    if (!json) await writeOut(`${line(name, told)}\n`);
  }
  const [first] = failures;
  if (first === undefined) return { done };
  const alike = failures.every(({ exitCode }) => exitCode === first.exitCode) && failures.length === done.size;
  return { done, exitCode: alike ? first.exitCode : STATUS.failed, error: first };
}
