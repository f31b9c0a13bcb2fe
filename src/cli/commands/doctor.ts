import type { Check, Finding } from "../../doctor/index.js";
import { defineCommand, type Failure, type Invocation } from "../command.js";
import { describeFailure, printFailure, STATUS } from "../failure.js";
import { writeOut } from "../output.js";
import { agreedBeforehand, canAsk, confirm, print } from "../terminal.js";

export const doctor = defineCommand({
  summary: "Check that machines can run here, by running one",
  description: `Every check does what it is about: programs are started, files written, images read in full, and a
machine is booted under a deadline. Exit status 0 when machines run, warnings or not; 1 when something fails.
With CI=true set --fix does not ask.`,
  options: {
    fix: { summary: "Mend what smolvm can mend, after asking, and check that again" },
    yes: { short: "y", summary: "With --fix: do not ask" },
  },
  async run({ options }, invocation) {
    const { CHECKS } = await import("../../doctor/index.js");
    const results = new Map<string, Finding>();
    await examine(CHECKS, results, invocation);
    if (options.fix) await mend(CHECKS, results, options.yes, invocation);
    const fixable = [...results.values()].some((finding) => finding.mend?.fix !== undefined);
    const hint = fixable && !options.fix ? "Run: smolvm doctor --fix" : null;
    if (hint !== null) print(`hint: ${hint}`);
    const failed = [...results].filter(([, finding]) => finding.status === "failure").map(([name]) => name);
    return {
      data: { checks: [...results].map(([name, finding]) => asData(name, finding)) },
      ...(failed.length === 0 ? {} : { exitCode: STATUS.failed, error: failure(failed, hint) }),
    };
  },
});

/** Shows each finding as soon as it is there. */
async function examine(checks: readonly Check[], results: Map<string, Finding>, { json, signal }: Invocation) {
  for (const check of checks) {
    signal.throwIfAborted();
    const finding = await check.run(signal).catch((error: unknown) => broken(error));
    results.set(check.name, finding);
    if (!json) await writeOut(lines(check.name, finding));
  }
}

/** A check that could not be done has failed, and the error says why. */
function broken(error: unknown): Finding {
  const { message, hint } = describeFailure(error, STATUS.failed);
  return { status: "failure", detail: message, ...(hint === null ? {} : { mend: { say: hint } }) };
}

const MARKS = { ok: "✓", warning: "!", failure: "✗" } as const;

function lines(name: string, { status, detail, mend: remedy }: Finding): string {
  return `${MARKS[status]} ${name}: ${detail}\n${remedy === undefined ? "" : `    ${remedy.say}\n`}`;
}

async function mend(
  checks: readonly Check[],
  results: Map<string, Finding>,
  yes: boolean,
  invocation: Invocation,
): Promise<void> {
  const done = new Set<string>();
  const again: Check[] = [];
  for (const check of checks) {
    const fix = results.get(check.name)?.mend?.fix;
    if (fix === undefined) continue;
    again.push(check);
    if (done.has(fix.what)) continue; // several missing programs, one installation
    done.add(fix.what);
    if (!(await agreed(fix.what, yes, invocation.signal))) continue;
    print(`smolvm: ${fix.what}`);
    try {
      await fix.run(invocation.signal);
    } catch (error) {
      // The others may help all the same; that this one has not is found again below.
      invocation.signal.throwIfAborted();
      printFailure(describeFailure(error, STATUS.failed), invocation.debug ? error : undefined);
    }
  }
  await examine(again, results, invocation);
}

async function agreed(what: string, yes: boolean, signal: AbortSignal): Promise<boolean> {
  if (agreedBeforehand(yes)) return true;
  if (canAsk()) return confirm(`${what[0]?.toUpperCase() ?? ""}${what.slice(1)}?`, signal);
  print(`smolvm: to ${what}, run: smolvm doctor --fix --yes`);
  return false;
}

function asData(name: string, { status, detail, mend: remedy }: Finding) {
  return { name, status, detail, mend: remedy?.say ?? null, fixable: remedy?.fix !== undefined };
}

function failure(failed: readonly string[], hint: string | null): Failure {
  return {
    exitCode: STATUS.failed,
    code: "DOCTOR_FAILED",
    message: `Failed: ${failed.join(", ")}`,
    hint,
    details: { failed },
  };
}
