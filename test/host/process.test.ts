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
  const elsewhere = { ...own.scope, host: "elsewhere", boot: "another" };
  assert.equal(liveness({ ...own, scope: elsewhere }), "unknown");
  assert.equal(liveness({ ...own, scope: { ...own.scope, namespace: "pid:[1]" } }), "unknown");
  if (own.scope.boot !== "") assert.equal(liveness({ ...own, scope: { ...own.scope, boot: "before" } }), "dead");
});

test("a host with the same id but another name is another host, and one that was renamed is the same", () => {
  const own = processIdentity();
  assert.ok(own);
  const [id = ""] = own.scope.host.split(" ");
  const clone = { ...own.scope, host: process.platform === "linux" ? `${id} clone` : "clone", boot: "another" };
  assert.equal(liveness({ ...own, scope: clone }), "unknown");
  if (own.scope.boot !== "") assert.equal(liveness({ ...own, scope: { ...own.scope, host: `${id} old` } }), "alive");
});

test("a process that /proc hides from this user is not called dead", (t) => {
  const verdict = hidden();
  if (verdict === null) t.diagnostic("not tried: this system lets nobody hide processes");
  else assert.equal(verdict, "unknown");
});

/** What nobody says of a process of root where /proc hides those of others; null where that can't be set up. */
function hidden(): string | null {
  if (process.platform !== "linux" || process.geteuid?.() !== 0) return null;
  const module = new URL("../../src/host/process.js", import.meta.url).href;
  const program = `
    import { liveness, processIdentity } from ${JSON.stringify(module)};
    const parent = processIdentity(process.ppid);
    process.setegid(65534);
    process.seteuid(65534);
    console.log(parent === null ? "" : liveness(parent));
  `;
  const script = 'mount -t proc -o hidepid=2 proc /proc && "$0" --input-type=module -e "$1"; exit $?';
  const args = ["--mount", "--propagation", "private", "/bin/sh", "-c", script, process.execPath, program];
  try {
    return execFileSync("unshare", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return null; // no namespaces for this user
  }
}

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
