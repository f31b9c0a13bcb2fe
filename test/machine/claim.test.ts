import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { OperationTimeoutError } from "../../src/errors.js";
import { processIdentity } from "../../src/host/process.js";
import { isClaimed, tryClaim, waitForClaim } from "../../src/machine/claim.js";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-claim-"));
});
after(() => rm(folder, { recursive: true, force: true }));

test("a name is one's until it is released", async () => {
  const path = join(folder, "one");
  assert.equal(await isClaimed(path), false);
  const claim = await tryClaim(path);
  assert.ok(claim);
  assert.equal(await isClaimed(path), true);
  assert.equal(await tryClaim(path), null);
  await assert.rejects(waitForClaim(path, 50), OperationTimeoutError);
  setTimeout(() => void claim.release(), 100);
  const next = await waitForClaim(path, 2000);
  await next.release();
  assert.deepEqual(await readdir(folder), []);
});

test("waiting for it ends with the caller's signal", async () => {
  const path = join(folder, "waited");
  const claim = await tryClaim(path);
  const reason = new Error("no time");
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason), 30);
  await assert.rejects(waitForClaim(path, 5000, controller.signal), (error) => error === reason);
  await claim?.release();
});

test("the claim of a process that is gone is taken over, by one of all who try", async () => {
  const path = join(folder, "orphan");
  const gone = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  await once(gone, "spawn");
  const identity = processIdentity(gone.pid);
  await writeFile(path, JSON.stringify(identity));
  assert.equal(await tryClaim(path), null, "while it lives");
  gone.kill("SIGKILL");
  await once(gone, "exit");
  assert.equal(await isClaimed(path), false);
  const module = pathToFileURL(fileURLToPath(new URL("../../src/machine/claim.js", import.meta.url))).href;
  const code = `
    const { tryClaim } = await import(${JSON.stringify(module)});
    const claim = await tryClaim(${JSON.stringify(path)});
    console.log(claim === null ? "no" : "yes");
    await new Promise((resolve) => setTimeout(resolve, 700));`;
  const answers = await Promise.all(
    Array.from({ length: 4 }, () => promisify(execFile)(process.execPath, ["--input-type=module", "-e", code])),
  );
  assert.ok(answers.filter(({ stdout }) => stdout.trim() === "yes").length <= 1);
  const claim = await tryClaim(path);
  assert.ok(claim, "they are all gone now");
  await claim.release();
});
