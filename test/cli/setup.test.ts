import assert from "node:assert/strict";
import { chmod, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { installCommands, PACKAGE_MANAGERS } from "../../src/host/packages.js";
import { hostTools } from "../../src/host/setup.js";
import { envelopeOf, onTerminal, smolvm, temporaryFolder } from "./smolvm.js";

const TOOLS = hostTools("linux", process.arch).map((tool) => tool.name);
const QEMU = TOOLS[0] ?? "";

/**
 * A system of its own: a PATH with a package manager that writes down how it was called and "installs" by making the programs
 * that are missing, and, beside it, the programs that are already there.
 */
async function bareSystem(context: TestContext, { manager = "apt-get", present = [] as readonly string[] } = {}) {
  const folder = await temporaryFolder(context);
  const bin = join(folder, "bin");
  await mkdir(bin);
  const log = join(folder, "log");
  const installed = TOOLS.map((tool) => `printf '#!/bin/sh\\n' > ${bin}/${tool}; chmod 755 ${bin}/${tool}`).join("\n");
  const scripts: Record<string, string> = {
    [manager]: `echo "${manager} $*" >> ${log}\necho working\ncase "$*" in *install*|*add*|*-S*)\n${installed}\n;; esac`,
    ...Object.fromEntries(present.map((tool) => [tool, ""])),
  };
  for (const [name, script] of Object.entries(scripts)) {
    await writeFile(join(bin, name), `#!/bin/sh\nPATH=/usr/bin:/bin\n${script}\n`);
    await chmod(join(bin, name), 0o755);
  }
  await symlink(process.execPath, join(bin, "node"));
  return {
    env: { PATH: bin },
    calls: async () => (await readFile(log, "utf8").catch(() => "")).split("\n").filter((line) => line !== ""),
  };
}

test("setup runs nothing when nothing is missing", async (context) => {
  const system = await bareSystem(context, { present: TOOLS });
  const { status, stderr } = await smolvm(["setup", "--yes"], { env: system.env });
  assert.equal(status, 0);
  assert.equal(stderr, "Nothing is missing.\n");
  assert.deepEqual(await system.calls(), []);
});

test("setup --yes refreshes the lists and installs exactly what is missing", async (context) => {
  const system = await bareSystem(context, { present: TOOLS.filter((tool) => tool !== QEMU && tool !== "zstd") });
  const ran = await smolvm(["setup", "--yes", "--json"], { env: system.env });
  assert.equal(ran.status, 0, ran.stderr);
  const qemu = PACKAGE_MANAGERS[0]?.packages[QEMU] ?? "";
  assert.deepEqual(await system.calls(), ["apt-get update", `apt-get install -y --no-install-recommends ${qemu} zstd`]);
  assert.deepEqual(envelopeOf(ran).data, {
    missing: [QEMU, "zstd"],
    manager: "apt",
    commands: ["apt-get update", `apt-get install -y --no-install-recommends ${qemu} zstd`],
    installed: true,
  });
});

test("without a terminal and without --yes setup prints the commands, runs none and fails", async (context) => {
  const system = await bareSystem(context);
  const { status, stderr } = await smolvm(["setup"], { env: system.env });
  assert.equal(status, 1);
  assert.match(stderr, new RegExp(`^  ${QEMU}: runs the machines$`, "m"));
  assert.match(stderr, /^ {2}apt-get install -y --no-install-recommends /m);
  assert.match(stderr, /^hint: Run: smolvm setup --yes$/m);
  assert.deepEqual(await system.calls(), []);
});

test("in CI setup does not ask", async (context) => {
  const system = await bareSystem(context);
  const { status } = await smolvm(["setup"], { env: { ...system.env, CI: "true" } });
  assert.equal(status, 0);
  assert.equal((await system.calls()).length, 2);
});

test("setup --dry-run shows the commands and runs none, even with --yes", async (context) => {
  const system = await bareSystem(context);
  const { status, stderr } = await smolvm(["setup", "--dry-run", "--yes"], { env: system.env });
  assert.equal(status, 0);
  assert.match(stderr, /apt-get install/);
  assert.deepEqual(await system.calls(), []);
});

test("on a terminal setup asks, and does what the answer says", async (context) => {
  const system = await bareSystem(context);
  const refused = await onTerminal(
    ["setup"],
    [
      ["expect", "[y/N]"],
      ["send", "\r"],
    ],
    { env: system.env },
  );
  assert.equal(refused.failed, null, refused.output);
  assert.equal(refused.status, 1);
  assert.deepEqual(await system.calls(), []);
  const agreed = await onTerminal(
    ["setup"],
    [
      ["expect", "[y/N]"],
      ["send", "y\r"],
    ],
    { env: system.env },
  );
  assert.equal(agreed.status, 0, agreed.output);
  assert.equal((await system.calls()).length, 2);
});

test("a package manager that fails is an error that shows the command", async (context) => {
  const system = await bareSystem(context);
  await writeFile(join(system.env.PATH, "apt-get"), "#!/bin/sh\nexit 100\n");
  const ran = await smolvm(["setup", "--yes", "--json"], { env: system.env });
  assert.equal(ran.status, 1);
  assert.equal(envelopeOf(ran).error?.message, "'apt-get update' ended with 100.");
});

test("a system without a known package manager is told what to install", async (context) => {
  const folder = await temporaryFolder(context);
  const ran = await smolvm(["setup", "--yes", "--json"], { env: { PATH: folder } });
  assert.equal(ran.status, 1);
  assert.equal(envelopeOf(ran).error?.code, "HOST_UNSUPPORTED");
  assert.match(envelopeOf(ran).error?.hint ?? "", new RegExp(QEMU));
});

test("each package manager is called in its own way", async (context) => {
  const calls: Readonly<Record<string, RegExp>> = {
    dnf: /^dnf install -y qemu-system-\S+ qemu-img util-linux xz zstd$/,
    pacman: /^pacman -S --noconfirm --needed qemu-system-\S+ qemu-img util-linux xz zstd$/,
    apk: /^apk add --update-cache qemu-system-\S+ qemu-img setpriv util-linux-misc xz zstd$/,
    zypper: /^zypper --non-interactive install qemu-\S+ qemu-img util-linux xz zstd$/,
    brew: /^brew install qemu xz zstd$/,
  };
  for (const [manager, call] of Object.entries(calls)) {
    const system = await bareSystem(context, { manager });
    const { status, stderr } = await smolvm(["setup", "--yes"], { env: system.env });
    const last = (await system.calls()).at(-1) ?? "";
    assert.match(last, call, stderr);
    assert.equal(status, 0, stderr);
  }
});

test("a user who is not root installs with sudo", (context) => {
  context.mock.method(process as { getuid: () => number }, "getuid", () => 1000);
  for (const manager of PACKAGE_MANAGERS) {
    const commands = installCommands(manager, [QEMU]);
    assert.ok(commands.length > 0);
    for (const command of commands) assert.equal(command[0] === "sudo", manager.needsRoot, command.join(" "));
  }
});
