import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { type TestContext, test } from "node:test";
import { pathToFileURL } from "node:url";

import { Apt, type AptOptions } from "../../src/build/apt.js";
import { packageRoot } from "../../src/host/package.js";
import { requireTool } from "../../src/host/tools.js";

/* A small package stands for all: what is tried here is the way to it. */
const PACKAGE = "busybox-static";

function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-apt-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function open(context: TestContext, options: Partial<AptOptions> = {}): Promise<{ apt: Apt; steps: string[] }> {
  const steps: string[] = [];
  const arch = process.arch === "arm64" ? "arm64" : "x86_64";
  const apt = await Apt.open({
    arch,
    folder: temporaryFolder(context),
    onStep: (step) => steps.push(step),
    ...options,
  });
  return { apt, steps };
}

test("packages are found, their dependencies told, and what is downloaded says its name and version", async (context) => {
  const { apt } = await open(context);
  assert.equal(await apt.first(["no-such-package-anywhere", PACKAGE]), PACKAGE);
  const dependencies = await apt.dependencies("dash");
  assert.ok(dependencies.includes("debianutils") && dependencies.includes("libc6"), dependencies.join(", "));
  const [downloaded] = await apt.download([PACKAGE]);
  assert.equal(downloaded?.name, PACKAGE);
  assert.match(downloaded.version, /^\d+:\d/);
  assert.ok(existsSync(downloaded.path));
});

test("lists that are behind the archive are read anew when a download fails", async (context) => {
  const folder = temporaryFolder(context);
  // An apt-get whose first download fails as it does when a package was replaced since the lists were read.
  const wrapper = join(folder, "apt-get");
  writeFileSync(
    wrapper,
    `#!/bin/sh
case "$*" in *" download "*)
  if mkdir ${folder}/failed 2>/dev/null; then echo "E: Failed to fetch it  404  Not Found" >&2; exit 100; fi ;;
esac
exec ${requireTool("apt-get")} "$@"
`,
  );
  chmodSync(wrapper, 0o755);
  const path = process.env["PATH"] ?? "";
  process.env["PATH"] = `${folder}${delimiter}${path}`;
  context.after(() => (process.env["PATH"] = path));
  // Given, so that a host whose own lists are old or missing takes the same way.
  const { apt, steps } = await open(context, { systemLists: "/var/lib/apt/lists" });
  const [downloaded] = await apt.download([PACKAGE]);
  assert.equal(downloaded?.name, PACKAGE);
  assert.ok(existsSync(join(folder, "failed")));
  assert.deepEqual(
    steps.map((step) => step.split(" ")[0]),
    ["downloading", "reading", "downloading"],
  );
});

test("an ordinary user, with a home that has a space and a quote in its name, makes the image as root does", (context) => {
  // The compiled program is copied to where any user can read it.
  const folder = temporaryFolder(context);
  const home = join(folder, "it's a home");
  mkdirSync(home);
  cpSync(join(packageRoot(), "build", "src"), join(folder, "program"), { recursive: true });
  cpSync(join(packageRoot(), "package.json"), join(folder, "package.json"));
  chmodSync(folder, 0o755);
  const root = process.getuid?.() === 0;
  const nobody = 65534;
  if (root) chownSync(home, nobody, nobody);
  const script = `
    import { defaultImage } from ${JSON.stringify(pathToFileURL(join(folder, "program", "build", "index.js")).href)};
    const { name } = await defaultImage();
    console.log(process.getuid(), name);`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, HOME: home, SMOLVM_HOME: join(home, "smolvm") },
    ...(root ? { uid: nobody, gid: nobody } : {}),
  });
  assert.equal(stdout.trim(), `${root ? nobody : (process.getuid?.() ?? "")} default`, stderr);
  assert.ok(existsSync(join(home, "smolvm", "images", "default", "image.json")));
});
