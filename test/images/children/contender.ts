// A program that takes a lock again and again, and would see if another one had it at the same time.
import { appendFileSync, closeSync, openSync, rmSync } from "node:fs";

import { acquireLock } from "../../../src/images/store/locks.js";

const [folder = "", witness = "", rounds = ""] = process.argv.slice(2);

if (rounds === "hold") {
  await acquireLock(folder);
  process.stdout.write("held\n");
  setInterval(() => undefined, 1_000);
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
