// Machines that are only a folder and a state, and processes that stand for their QEMU.
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach } from "node:test";

import { smolvmHome } from "../../src/host/home.js";
import { processIdentity, type ProcessIdentity } from "../../src/host/process.js";
import type { MachineState } from "../../src/machine/state.js";

/** Gives a test file a home of its own, in which no machine is when a test begins. */
export function homeWithoutMachines(): string {
  const home = mkdtempSync(join(tmpdir(), "smolvm-machines-"));
  process.env["SMOLVM_HOME"] = home;
  beforeEach(() => rm(join(home, "machines"), { recursive: true, force: true }));
  after(() => rm(home, { recursive: true, force: true }));
  return home;
}

/** Of this process alone: what has it among its arguments anywhere on the host is killed. */
export const TOKEN = randomUUID();

export function state(changes: Partial<MachineState> = {}): MachineState {
  return {
    version: 1,
    vmId: "vm-test",
    createdAt: new Date(0).toISOString(),
    detached: false,
    owner: processIdentity(),
    status: "running",
    reason: null,
    image: null,
    cacheDir: join(smolvmHome(), "images"),
    kernelPath: "/k",
    rootfsPath: "/r",
    initrdPath: null,
    bootArgs: null,
    vcpuCount: null,
    memSizeMib: 512,
    diskMode: "isolated",
    diskSizeMib: null,
    extraDrives: [],
    network: "restricted",
    accel: "auto",
    env: {},
    ports: [],
    run: null,
    ...changes,
  };
}

/** Stands for QEMU: a process with the run's token among its arguments. */
export async function standIn(): Promise<ChildProcess & { readonly identity: ProcessIdentity }> {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)", "--", "-uuid", TOKEN], {
    stdio: "ignore",
  });
  await once(child, "spawn");
  const identity = processIdentity(child.pid);
  assert.ok(identity);
  return Object.assign(child, { identity });
}

export async function goneIdentity(): Promise<ProcessIdentity> {
  const child = await standIn();
  child.kill("SIGKILL");
  await once(child, "exit");
  return child.identity;
}

export const run = (qemu: ProcessIdentity | null): MachineState["run"] => ({
  token: TOKEN,
  startedAt: new Date(0).toISOString(),
  qemu,
  accelerator: "tcg",
  acceleratorReason: "",
  vcpus: 1,
});
