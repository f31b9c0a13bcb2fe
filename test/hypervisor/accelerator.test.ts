import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { HostError } from "../../src/errors.js";
import { findTool } from "../../src/host/tools.js";
import { chooseAccelerator, probeAccelerator } from "../../src/hypervisor/qemu/accelerator.js";
import { canOpenKvm } from "../../src/hypervisor/qemu/cage.js";
import { qemuFacts } from "../../src/hypervisor/qemu/facts.js";

const ARCH = process.arch === "arm64" ? "aarch64" : "x86_64";
/** What a QEMU whose guest came to its end gives. */
const SUCCESS = ARCH === "x86_64" ? 33 : 0;
let home: string;
before(async () => {
  home = await mkdtemp(join(tmpdir(), "smolvm-accelerator-"));
  process.env["SMOLVM_HOME"] = home;
});
after(() => rm(home, { recursive: true, force: true }));

/** A program in QEMU's place that does one thing with hardware, which is counted, and another without, as a control. */
const scriptOf = (calls: string, hardware: string, emulated = `exit ${SUCCESS}`): string =>
  `case "$*" in *'-accel tcg'*) ${emulated} ;; *) echo kvm >> ${calls}; ${hardware} ;; esac`;

async function count(calls: string): Promise<number> {
  return (await readFile(calls, "utf8").catch(() => "")).split("kvm").length - 1;
}

/** A program in QEMU's place. */
async function pretender(name: string, script: string): Promise<string> {
  const path = join(home, name);
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
  return path;
}

function realQemu(arch: string): string {
  const path = findTool(`qemu-system-${arch}`);
  assert.ok(path, `qemu-system-${arch}`);
  return path;
}

test("the probe's guest runs to its end where there is a processor that works, on both architectures", async (context) => {
  for (const arch of ["x86_64", "aarch64"] as const) {
    const verdict = await probeAccelerator("tcg", arch, realQemu(arch), AbortSignal.timeout(60_000));
    assert.equal(verdict.works, true, verdict.seen);
    context.diagnostic(`${arch}: ${verdict.seen}`);
  }
});

test("an accelerator that opens and then hangs its guest is found out in the time that it has", async (context) => {
  const hangs = await pretender("hangs", "exec sleep 600");
  const started = performance.now();
  const verdict = await probeAccelerator("kvm", ARCH, hangs);
  const took = performance.now() - started;
  assert.equal(verdict.works, false);
  assert.match(verdict.seen, /hangs/);
  assert.ok(took < 20_000, `${took} ms`); // it takes under a second, on a host that has time for it
  context.diagnostic(`${verdict.seen}, ${Math.round(took)} ms in all`);
});

test("a guest that ends otherwise than it should is no success, and what QEMU said is kept", async () => {
  const fails = await pretender("fails", 'echo "qemu: the MSR is missing." >&2; exit 1');
  const verdict = await probeAccelerator("kvm", ARCH, fails, AbortSignal.timeout(60_000));
  assert.equal(verdict.works, false);
  assert.match(verdict.seen, /exit status 1 on kvm: qemu: the MSR is missing$/);
});

test("the verdict on this host's own accelerator is found and remembered", async (context) => {
  const calls = join(home, "real-calls");
  const qemu = `exec ${realQemu(ARCH)} "$@"`;
  const binary = await pretender("real", scriptOf(calls, qemu, qemu));
  const first = performance.now();
  const choice = await chooseAccelerator("auto", ARCH, binary);
  const second = performance.now();
  assert.deepEqual(await chooseAccelerator("auto", ARCH, binary), choice);
  const third = performance.now();
  context.diagnostic(`${choice.accelerator}: ${choice.reason}`);
  context.diagnostic(`first ${Math.round(second - first)} ms, then ${(third - second).toFixed(1)} ms`);
  assert.equal(await count(calls), canOpenKvm() ? 1 : 0, "QEMU is not started for what is known");
  if (!canOpenKvm()) return;
  const remembered = await readFile(join(home, "host.json"), "utf8");
  assert.ok(remembered.includes(`accelerator-kvm-${ARCH}`));
});

test("a verdict is of one QEMU build: another one is tried anew", async () => {
  if (!canOpenKvm()) return;
  const calls = join(home, "calls");
  const counting = await pretender("counting", scriptOf(calls, "exit 1"));
  await chooseAccelerator("auto", ARCH, counting);
  await chooseAccelerator("auto", ARCH, counting);
  assert.equal(await count(calls), 1);
  await pretender("counting", `${scriptOf(calls, "exit 2")}\n# another build`);
  await chooseAccelerator("auto", ARCH, counting);
  assert.equal(await count(calls), 2);
});

test("hardware is written off only if emulation is quick, and is tried anew on request", async () => {
  if (!canOpenKvm()) return;
  const calls = join(home, "hung-calls");
  const choose = async (path: string, options?: { anew: boolean }): Promise<string> =>
    (await chooseAccelerator("auto", ARCH, path, options)).accelerator;

  const busy = await pretender("busy", scriptOf(calls, "exec sleep 60", "exec sleep 60"));
  assert.equal(await choose(busy), "tcg");
  assert.equal(await choose(busy), "tcg");
  assert.equal(await count(calls), 2, "nothing moves on this host, which says nothing of its accelerator");
  const full = await pretender("full", scriptOf(calls, "exit 1", "exit 1"));
  assert.equal(await choose(full), "tcg");
  assert.equal(await choose(full), "tcg");
  assert.equal(await count(calls), 4, "nor does it where it has no memory for any guest");

  const hung = await pretender("hung", scriptOf(calls, "exec sleep 60"));
  assert.equal(await choose(hung), "tcg");
  assert.equal(await choose(hung), "tcg");
  assert.equal(await count(calls), 5, "remembered");
  assert.equal(await choose(hung, { anew: true }), "tcg");
  assert.equal(await count(calls), 6);

  const late = await pretender("late", scriptOf(calls, `sleep 1; exit ${SUCCESS}`, `sleep 1; exit ${SUCCESS}`));
  assert.equal(await choose(late), "kvm", "late, and no later than an emulated one");
});

test("an accelerator that was asked for and does not work is a HostError that says what was seen", async () => {
  const fails = await pretender("refuses", 'echo "qemu: no" >&2; exit 1');
  await assert.rejects(chooseAccelerator("hvf", ARCH, fails), (error: unknown) => {
    assert.ok(error instanceof HostError);
    assert.equal(error.code, "HOST_ACCELERATOR");
    assert.ok(error.hint);
    return true;
  });
  const foreign = ARCH === "x86_64" ? "aarch64" : "x86_64";
  await assert.rejects(chooseAccelerator("kvm", foreign, fails), /the guest is .* and this host is not/);
  assert.deepEqual((await chooseAccelerator("auto", foreign, fails)).accelerator, "tcg");
});

test("QEMU is asked once what it can do", async () => {
  const calls = join(home, "asked");
  await mkdir(join(home, "bin"));
  await pretender(join("bin", "qemu-system-x86_64"), `echo call >> ${calls}; exec ${realQemu("x86_64")} "$@"`);
  const path = process.env["PATH"];
  process.env["PATH"] = `${join(home, "bin")}:${path ?? ""}`;
  try {
    const facts = await qemuFacts("x86_64");
    assert.match(facts.version, /^\d+\.\d+\.\d+$/);
    const asked = await readFile(calls, "utf8");
    assert.deepEqual(await qemuFacts("x86_64"), facts);
    assert.equal(await readFile(calls, "utf8"), asked, "it was asked again");
  } finally {
    process.env["PATH"] = path;
  }
});

test("a missing QEMU is a HostError with the command that installs it", async () => {
  const path = process.env["PATH"];
  process.env["PATH"] = home;
  try {
    await assert.rejects(qemuFacts("aarch64"), (error: unknown) => {
      assert.ok(error instanceof HostError);
      assert.equal(error.code, "HOST_TOOL_MISSING");
      assert.match(error.message, /'qemu-system-aarch64' is not installed/);
      assert.ok(error.hint);
      return true;
    });
  } finally {
    process.env["PATH"] = path;
  }
});
