import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { chmod, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { HostError } from "../../src/errors.js";
import { findTool } from "../../src/host/find.js";
import { confinementTools } from "../../src/hypervisor/qemu/confinement-tools.js";
import { startQemu } from "../../src/hypervisor/qemu/process.js";
import { eventually, processesIn } from "../machine/setting.js";

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-start-"));
});
after(() => rm(folder, { recursive: true, force: true }));

test("what is found out about both tools is remembered of both", async () => {
  for (let round = 0; round < 10; round++) {
    const home = join(folder, `home-${round}`);
    process.env["SMOLVM_HOME"] = home;
    await confinementTools();
    const remembered = Object.keys(JSON.parse(await readFile(join(home, "host.json"), "utf8")) as object);
    assert.deepEqual(remembered.sort(), ["prlimit", "setpriv"]);
    assert.deepEqual(fs.readdirSync(home), ["host.json"]);
  }
});

test("a QEMU that can't be looked at is ended, and its start fails", { timeout: 60_000 }, async () => {
  process.env["SMOLVM_HOME"] = folder;
  const pretender = join(folder, "sleeper");
  await writeFile(pretender, "#!/bin/sh\nexec sleep 1000\n");
  await chmod(pretender, 0o755);
  const machine = join(folder, "run");
  fs.mkdirSync(machine);
  const log = await open(join(folder, "log"), "w");
  await confinementTools(); // tried before this host has too few open files
  const readFileSync = fs.readFileSync;
  // What Node says when this program has as many open files as it may.
  fs.readFileSync = ((path: string, ...rest: []) => {
    if (!/^\/proc\/\d+\/stat$/.test(path) || path === `/proc/${process.pid}/stat`) return readFileSync(path, ...rest);
    throw Object.assign(new Error("EMFILE: too many open files"), { code: "EMFILE", errno: -24, syscall: "open" });
  }) as typeof readFileSync;
  syncBuiltinESMExports();
  try {
    const confinement = { uid: null, group: null, diesWith: process.pid, addressSpace: null, fileSize: 0 };
    const start = startQemu(pretender, () => ({ args: [], files: [], named: [] }), {
      folder: machine,
      logFd: log.fd,
      confinement,
      needs: { network: false, kvm: false },
    });
    await assert.rejects(start, (error) => error instanceof HostError && error.code === "HOST_TOOL_FAILED");
  } finally {
    fs.readFileSync = readFileSync;
    syncBuiltinESMExports();
    await log.close();
  }
  assert.deepEqual(processesIn(folder), []);
});

test("what is started for a program that is gone before it could be bound to it ends by itself", async (context) => {
  const bin = join(folder, "slow-bin");
  fs.mkdirSync(bin);
  const real = findTool("setpriv");
  const [begun, go] = [join(folder, "begun"), join(folder, "go")];
  // Passes its trial at once, and then waits in the middle of the chain of programs.
  const script = `#!/bin/sh\ncase "$*" in *sleeper*) : > ${begun}; until [ -e ${go} ]; do sleep 0.05; done ;; esac\nexec ${real ?? ""} "$@"\n`;
  await writeFile(join(bin, "setpriv"), script, { mode: 0o755 });
  const machine = join(folder, "run-of-the-dead");
  fs.mkdirSync(machine);
  const library = new URL("../../src/hypervisor/qemu/process.js", import.meta.url).href;
  const program = `
    const { startQemu } = await import(${JSON.stringify(library)});
    await startQemu(${JSON.stringify(join(folder, "sleeper"))}, () => ({ args: [], files: [], named: [] }), {
      folder: ${JSON.stringify(machine)}, logFd: 2, needs: { network: false, kvm: false },
      confinement: { uid: null, group: null, diesWith: process.pid, addressSpace: null, fileSize: 0 },
    });`;
  const env = { ...process.env, SMOLVM_HOME: join(folder, "slow-home"), PATH: `${bin}:${process.env["PATH"] ?? ""}` };
  const owner = spawn(process.execPath, ["--input-type=module", "-e", program], { env, stdio: "inherit" });
  context.after(() => {
    for (const pid of processesIn(folder)) process.kill(pid, "SIGKILL");
  });
  await eventually("it is being started", () => fs.existsSync(begun), 30_000);
  owner.kill("SIGKILL");
  await once(owner, "exit");
  assert.ok(processesIn(folder).length > 0);
  await writeFile(go, "");
  await eventually("nothing of it runs", () => processesIn(folder).length === 0, 20_000);
});
