import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";

import { liveness, processIdentity } from "../../src/host/process.js";

test("a process lives until it has ended, and a reused number is not it", async () => {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  await once(child, "spawn");
  const identity = processIdentity(child.pid);
  assert.ok(identity);
  assert.equal(liveness(identity), "alive");
  assert.equal(liveness({ ...identity, started: "at another time" }), "dead");
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.equal(liveness(identity), "dead");
});

test("processes of another boot are dead, those of another host or container are not to be seen from here", () => {
  const own = processIdentity();
  assert.ok(own);
  assert.equal(liveness(own), "alive");
  assert.equal(liveness({ ...own, scope: { ...own.scope, host: "elsewhere" } }), "unknown");
  assert.equal(liveness({ ...own, scope: { ...own.scope, namespace: "pid:[1]" } }), "unknown");
  if (own.scope.boot !== "") assert.equal(liveness({ ...own, scope: { ...own.scope, boot: "before" } }), "dead");
});

test("a process that can't be looked at, for want of a file descriptor, is not called dead", () => {
  const module = new URL("../../src/host/process.js", import.meta.url).href;
  const program = `
    import { openSync } from "node:fs";
    import { liveness, processIdentity } from ${JSON.stringify(module)};
    const own = processIdentity();
    try { for (;;) openSync("/dev/null"); } catch {}
    console.log(liveness(own));
  `;
  const limited = ["-c", 'ulimit -n 64 && exec "$0" --input-type=module -e "$1"', process.execPath, program];
  const verdict = execFileSync("/bin/sh", limited, { encoding: "utf8" }).trim();
  assert.notEqual(verdict, "dead");
});
