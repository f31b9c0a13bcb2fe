import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";

import { liveness, processIdentity, type ProcessIdentity } from "../../host/process.js";
import { makeFolder, unique } from "../../host/folder.js";
import { isObject } from "../../json.js";
import { replaceFile } from "./durable.js";
import type { Layout } from "./layout.js";
import { entryAt, parseJson, readSmallFile } from "./look.js";

const OWNER = "owner.json";
const MAX_BYTES = 4096;

/**
 * Places for unfinished files on the cache's own file system, in a folder that says which process they belong to. It goes
 * with the process; that of a process that was killed is for prune.
 */
export class TemporaryFiles {
  readonly #layout: Layout;
  #folder: string | undefined;

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  /** A path where nothing is yet. `hint` is for people who look at the folder. */
  path(hint: string): string {
    if (this.#folder === undefined || !existsSync(this.#folder)) this.#folder = claim(this.#layout);
    return join(this.#folder, `${hint.replaceAll(/[^A-Za-z0-9._-]/g, "_").slice(0, 64)}.${unique()}`);
  }
}

const claimed = new Set<string>();

function claim(layout: Layout): string {
  const folder = join(layout.temporary, unique());
  makeFolder(folder);
  replaceFile(join(folder, OWNER), JSON.stringify(processIdentity()));
  if (claimed.size === 0) process.once("exit", removeClaimed);
  claimed.add(folder);
  return folder;
}

function removeClaimed(): void {
  for (const folder of claimed) {
    try {
      rmSync(folder, { recursive: true, force: true });
    } catch {
      // The cache can't be written any more; prune removes the folder another time. A program must not end with that.
    }
  }
}

/** How long a process may take to say whose a folder is. */
const UNOWNED_KEPT_MS = 60 * 60 * 1000;

/** Whether the process that a folder of temporary files belongs to has ended. One that can't be told is left alone. */
export function isAbandoned(folder: string): boolean {
  const owner = join(folder, OWNER);
  const stat = entryAt(owner);
  if (stat === undefined) {
    // Killed before it had said whose it is, or about to say it.
    const made = entryAt(folder);
    return made !== undefined && Date.now() - made.mtimeMs > UNOWNED_KEPT_MS;
  }
  const identity = parseJson(readSmallFile(owner, MAX_BYTES));
  return (
    isObject(identity) && isObject(identity["scope"]) && liveness(identity as unknown as ProcessIdentity) === "dead"
  );
}
