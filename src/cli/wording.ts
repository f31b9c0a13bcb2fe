import type { SmolVMError } from "../errors.js";

interface Wording {
  readonly option: string;
  /** What the number in the library's message counts, where the option takes units. */
  readonly unit?: string;
}

/** The library's fields, as they are named by whoever types them. */
const WORDINGS: Readonly<Record<string, Wording>> = {
  vmId: { option: "--name" },
  image: { option: "--image" },
  vcpuCount: { option: "--cpus" },
  memSizeMib: { option: "--memory", unit: "MiB" },
  diskSizeMib: { option: "--disk", unit: "MiB" },
  network: { option: "--network" },
  accel: { option: "--accel" },
  envVars: { option: "--env" },
  env: { option: "--env" },
  cwd: { option: "--workdir" },
  user: { option: "--user" },
  timeoutMs: { option: "--timeout", unit: "ms" },
};

/** Of these names none is a word that a hint has for something else. */
const IN_HINTS = /\b(?:vmId|vcpuCount|memSizeMib|diskSizeMib|envVars|timeoutMs)\b/g;

export interface Worded {
  readonly message: string;
  readonly hint: string | null;
  readonly details: Readonly<Record<string, unknown>>;
}

/** An error of the library in the words of the command line. */
export function inOptions(error: SmolVMError): Worded {
  const { message, hint, details } = error;
  const { field } = details;
  const wording = typeof field === "string" && Object.hasOwn(WORDINGS, field) ? WORDINGS[field] : undefined;
  const worded = { message, hint: hintFor(error, hint ?? null), details };
  if (wording === undefined || typeof field !== "string" || !message.startsWith(field)) return worded;
  const said = message.slice(field.length).replace(/^( is \d+)(?=[;.])/, wording.unit ? `$1 ${wording.unit}` : "$1");
  return { ...worded, message: `${wording.option}${said}`, details: { ...details, option: wording.option } };
}

/** The next step, as a command and not as a call. */
function hintFor({ code, details }: SmolVMError, hint: string | null): string | null {
  if (code === "OUTPUT_TOO_LARGE") return "Leave --json out: the output is then passed on as it comes.";
  const { vmId, status } = details;
  if (
    code === "COMMAND_EXECUTION_UNAVAILABLE" &&
    typeof vmId === "string" &&
    (status === "stopped" || status === "error")
  )
    return `Start it first: smolvm start ${vmId}`;
  return (
    hint
      ?.replace(IN_HINTS, (field) => WORDINGS[field]?.option ?? field)
      .replace(/\b(network|accel) "(\w+)"/g, "--$1 $2") ?? null
  );
}
