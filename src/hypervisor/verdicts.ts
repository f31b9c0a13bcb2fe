import { readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { release } from "node:os";
import { join } from "node:path";

import { makeFolder, unique } from "../host/folder.js";
import { smolvmHome } from "../host/home.js";

/** What was found out about this host once and need not be tried again while the key stays the same. */
type Verdicts = Record<string, { readonly key: string; readonly value: unknown }>;

const file = (): string => join(smolvmHome(), "host.json");

/** A remembered verdict, or undefined when there is none of that name under this key. */
export async function recallVerdict(name: string, key: string): Promise<unknown> {
  const verdict = (await readVerdicts())[name];
  return verdict?.key === key ? verdict.value : undefined;
}

/** Remembers a verdict. Two processes that do so at once may lose one of the two, which costs another try. */
export async function rememberVerdict(name: string, key: string, value: unknown): Promise<void> {
  const path = file();
  const temporary = `${path}.${unique()}`;
  try {
    makeFolder(smolvmHome(), { mode: 0o700 });
    const verdicts = { ...(await readVerdicts()), [name]: { key, value } };
    await writeFile(temporary, `${JSON.stringify(verdicts, null, 2)}\n`, { mode: 0o600 });
    await rename(temporary, path);
  } catch {
    // A home that can't be written to only means that the same is tried again next time.
    await rm(temporary, { force: true });
  }
}

async function readVerdicts(): Promise<Verdicts> {
  try {
    const parsed: unknown = JSON.parse(await readFile(file(), "utf8"));
    return typeof parsed === "object" && parsed !== null ? (parsed as Verdicts) : {};
  } catch {
    return {}; // none yet, or a damaged file: both mean that nothing is known
  }
}

/** Changes when the program is replaced by another build. */
export async function programKey(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  return `${path} ${size} ${mtimeMs}`;
}

/** Changes with every boot of the host and every kernel. */
export async function bootKey(): Promise<string> {
  const boot = await readFile("/proc/sys/kernel/random/boot_id", "utf8").catch(() => ""); // Linux only
  return `${boot.trim()} ${release()}`;
}
