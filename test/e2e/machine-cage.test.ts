import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { copyFile, cp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

import { packageRoot } from "../../src/host/package.js";
import { copySparse } from "../../src/images/store/index.js";
import { eventually, processesIn, testImage } from "../machine/setting.js";

test("an ordinary user's QEMU sees none of that user's files", async (context) => {
  // As root, by a program of another user: with the library and an image where that user can read them.
  const folder = mkdtempSync(join(tmpdir(), "smolvm-ordinary-"));
  context.after(() => rm(folder, { recursive: true, force: true }));
  const paths = await ordinaryPlace(folder);
  const program = `
    const { SmolVM } = await import(${JSON.stringify(pathToFileURL(paths.library).href)});
    const vm = await SmolVM.create(${JSON.stringify(paths.image)});
    const port = await vm.exposeLocal(7);
    process.stdout.write(JSON.stringify({ pid: vm.info.pid, port, said: (await vm.run("echo hello")).output }) + "\\n");
    process.stdin.once("end", () => vm.delete()).resume();`;
  const asOther = process.getuid?.() === 0 ? ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"] : [];
  const [command, ...args] = [...asOther, process.execPath, "--input-type=module", "-e", program];
  const env = { PATH: process.env["PATH"], HOME: paths.home, TMPDIR: paths.home };
  const child = spawn(command, args, { env, cwd: paths.home, stdio: ["pipe", "pipe", "inherit"] });
  context.after(() => void child.kill("SIGKILL"));
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
  await eventually("its machine runs", () => said.endsWith("\n") || child.exitCode !== null, 60_000);
  const machine = JSON.parse(said) as { readonly pid: number; readonly said: string };
  assert.equal(machine.said, "hello");

  const status = readFileSync(`/proc/${machine.pid}/status`, "utf8");
  assert.match(status, /^NoNewPrivs:\s+1$/m);
  assert.match(status, /^Seccomp:\s+2$/m);
  const [first, ...rest] = [...asOther, "unshare", "--map-root-user", "--mount", "true"];
  const possible = spawnSync(first, rest).status === 0;
  if (!possible) {
    context.diagnostic("this host gives an ordinary user no user namespace, so QEMU has none");
  } else {
    assert.notEqual(readlinkSync(`/proc/${machine.pid}/ns/user`), readlinkSync("/proc/self/ns/user"));
    assert.notEqual(readlinkSync(`/proc/${machine.pid}/ns/mnt`), readlinkSync("/proc/self/ns/mnt"));
    assert.match(status, /^CapEff:\s+0+$/m);
    assert.match(status, /^CapBnd:\s+0+$/m);
    const root = join("/proc", String(machine.pid), "root");
    const seen = readdirSync(root).sort();
    context.diagnostic(`QEMU's root folder: ${seen.join(" ")}`);
    for (const hidden of ["home", "root", "tmp", "var", "run", "srv"]) assert.ok(!seen.includes(hidden), hidden);
    assert.throws(() => readdirSync(join(root, paths.home)), { code: "ENOENT" });
    assert.deepEqual(readdirSync(join(root, "dev")).sort(), ["null", "urandom"]);
  }
  child.stdin.end();
  await once(child, "close");
  assert.equal(child.exitCode, 0);
  assert.deepEqual(processesIn(folder), []);
});

/** A home for another user, and what it needs to boot a machine. */
async function ordinaryPlace(folder: string) {
  const home = join(folder, "home");
  await cp(join(packageRoot(), "dist"), join(folder, "package", "dist"), { recursive: true });
  await copyFile(join(packageRoot(), "package.json"), join(folder, "package", "package.json"));
  const image = await testImage();
  const copied: Record<string, string> = {};
  for (const field of ["kernelPath", "rootfsPath", "initrdPath"] as const) {
    copied[field] = join(folder, field);
    await copySparse(image[field] ?? "", copied[field]);
  }
  mkdirSync(home);
  chmodSync(folder, 0o755);
  if (process.getuid?.() === 0) chownSync(home, 54321, 54321);
  return { home, library: join(folder, "package", "dist", "index.js"), image: copied };
}
