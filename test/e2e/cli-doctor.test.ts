import assert from "node:assert/strict";
import { chmod, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { findTool } from "../../src/host/find.js";
import { hostTools } from "../../src/host/setup.js";
import { homeWithDamaged } from "../cli/damaged-default.js";
import { machineHome } from "../cli/machines.js";
import { serveImages } from "../cli/registry.js";
import { envelopeOf, type Ran, smolvm, temporaryFolder } from "../cli/smolvm.js";

interface CheckData {
  readonly name: string;
  readonly status: "ok" | "warning" | "failure";
  readonly detail: string;
  readonly mend: string | null;
  readonly fixable: boolean;
}

function checksOf(ran: Ran): Map<string, CheckData> {
  const { checks } = envelopeOf(ran).data as { checks: CheckData[] };
  return new Map(checks.map((check) => [check.name, check]));
}

test("doctor runs a machine, names its accelerator, and is content", async (context) => {
  const { env, machines } = await machineHome(context);
  const { status, stdout, stderr } = await smolvm(["doctor"], { env });
  assert.equal(status, 0, `${stdout.toString()}${stderr}`);
  const text = stdout.toString();
  for (const tool of hostTools()) assert.match(text, new RegExp(`^✓ ${tool.name}: [\\d.]+$`, "m"));
  assert.match(text, /^[✓!] accelerator: (kvm|hvf|tcg)\b/m);
  assert.match(text, /^✓ boot: a machine came up and ran a command in [\d.]+ s \(Linux \S+, (kvm|hvf|tcg)\)$/m);
  assert.match(text, /^✓ images: \d+ here, every byte verified$/m);
  assert.deepEqual(await machines(), []);
});

test("doctor fails where QEMU is missing, and says what installs it", async (context) => {
  const { env, folder } = await machineHome(context);
  const bin = join(folder, "bin");
  await mkdir(bin);
  const [qemu] = hostTools();
  assert.ok(qemu);
  for (const tool of [
    ...hostTools()
      .filter(({ name }) => name !== qemu.name)
      .map(({ name }) => name),
    "apt-get",
    "sh",
  ]) {
    await symlink(findTool(tool) ?? "/nowhere", join(bin, tool));
  }
  const ran = await smolvm(["doctor", "--json"], { env: { ...env, PATH: bin } });
  assert.equal(ran.status, 1);
  assert.equal(envelopeOf(ran).error?.code, "DOCTOR_FAILED");
  const checks = checksOf(ran);
  const missing = checks.get(qemu.name);
  assert.deepEqual([missing?.status, missing?.fixable], ["failure", true]);
  assert.match(missing?.mend ?? "", /smolvm setup .*apt-get install/);
  assert.equal(checks.get("qemu-img")?.status, "ok");
  assert.equal(checks.get("boot")?.status, "failure");
});

test("a program that machines don't need is a warning where it is broken", async (context) => {
  const { env, folder } = await machineHome(context);
  const optional = hostTools().filter((tool) => !tool.required);
  assert.ok(optional.length > 0);
  const bin = join(folder, "bin");
  await mkdir(bin);
  for (const { name } of optional) await writeFile(join(bin, name), "#!/bin/sh\nexit 3\n", { mode: 0o755 });
  const ran = await smolvm(["doctor", "--json"], { env: { ...env, PATH: `${bin}:${process.env["PATH"] ?? ""}` } });
  assert.equal(ran.status, 0, ran.stderr);
  for (const { name } of optional) assert.equal(checksOf(ran).get(name)?.status, "warning", name);
});

test("doctor finds a damaged image; --fix asks first, and mends it with --yes", async (context) => {
  const { env, folder } = await serveImages(context);
  const shared = await machineHome(context);
  const archive = join(folder, "default.smolvm");
  assert.equal((await smolvm(["image", "export", "default", archive], { env: shared.env })).status, 0);
  assert.equal((await smolvm(["image", "import", archive], { env })).status, 0);
  assert.equal((await smolvm(["image", "pull", "one"], { env })).status, 0);
  const path = join(folder, "home", "images", "one", "vmlinux.bin");
  const bytes = await readFile(path);
  bytes[7] = (bytes[7] ?? 0) ^ 0x80;
  await chmod(path, 0o644);
  await writeFile(path, bytes);

  const found = checksOf(await smolvm(["doctor", "--fix", "--json"], { env })).get("images");
  assert.deepEqual([found?.status, found?.detail, found?.fixable], ["failure", "Damaged: one.", true]);
  assert.equal(found?.mend, "Run: smolvm image pull one");

  const away = { ...env, SMOLVM_REGISTRY: join(folder, "no-registry.json") };
  const failed = await smolvm(["doctor", "--fix", "--yes", "--json"], { env: away });
  assert.equal(checksOf(failed).get("images")?.status, "failure", "what did not help is said, and doctor goes on");
  assert.match(failed.stderr, /no-registry\.json/);

  const mended = await smolvm(["doctor", "--fix", "--yes", "--json"], { env });
  assert.equal(checksOf(mended).get("images")?.status, "ok", mended.stderr);
  assert.equal((await smolvm(["image", "verify", "one"], { env })).status, 0);
});

test("doctor --fix makes anew what was made here for another architecture", async (context) => {
  const [name, inDebian] = process.arch === "arm64" ? ["default-x86_64", "amd64"] : ["default-arm64", "arm64"];
  const { env, calls } = await homeWithDamaged(await temporaryFolder(context), name);
  const made = async (): Promise<boolean> =>
    (await calls()).some((call) => call.includes(`APT::Architecture=${inDebian} `));
  const found = await smolvm(["doctor", "--json"], { env });
  assert.equal(checksOf(found).get("images")?.detail, `Damaged: ${name}.`);
  assert.equal(await made(), false);
  const ran = await smolvm(["doctor", "--fix", "--yes", "--json"], { env });
  assert.equal(checksOf(ran).get("images")?.status, "failure", "the programs that make it are dummies");
  assert.ok(await made(), ran.stderr);
});

test("doctor says when a folder can't be used", async (context) => {
  const { env, folder } = await machineHome(context);
  const file = join(folder, "not-a-folder");
  await writeFile(file, "");
  const ran = await smolvm(["doctor", "--json"], { env: { ...env, SMOLVM_HOME: file } });
  assert.equal(ran.status, 1);
  const check = checksOf(ran).get("machines folder");
  assert.equal(check?.status, "failure");
  assert.match(check.mend ?? "", /SMOLVM_HOME/);
});
