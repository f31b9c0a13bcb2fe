// A program that takes a lock again and again, and would see if another one had it at the same time.
import { once } from "node:events";
import { appendFileSync, closeSync, openSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { acquireLock, tryLock } from "../../src/host/lock.js";

const [folder = "", witness = "", rounds = ""] = process.argv.slice(2);

if (rounds === "hold") {
  await acquireLock(folder);
  process.stdout.write("held\n");
  setInterval(() => undefined, 1_000);
} else if (rounds === "try") {
  // Every lock that is in the folder, and keeps what it gets until all have tried.
  process.stdout.write(" ");
  await once(process.stdin, "data");
  const won: string[] = [];
  for (const name of readdirSync(folder).sort()) {
    const path = join(folder, name);
    if (!name.endsWith(".tmp") && (await tryLock(path)) !== null) won.push(path);
  }
  process.stdout.write(JSON.stringify(won));
  await once(process.stdin.resume(), "end");
  process.exit();
} else {
  for (let round = 0; round < Number(rounds); round++) {
    const lock = await acquireLock(folder);
    // Fails if someone else is between these two lines.
    closeSync(openSync(`${witness}.inside`, "wx"));
    appendFileSync(witness, ".");
    rmSync(`${witness}.inside`);
    lock.release();
  }
}
