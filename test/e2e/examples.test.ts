import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { packageRoot } from "../../src/host/package.js";
import { machineHome } from "../cli/machines.js";
import { environment, envelopeOf, smolvm } from "../cli/smolvm.js";

/** Runs an example as the README says; one in TypeScript as it was compiled, where this Node doesn't run it by itself. */
async function example(name: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<string> {
  const compiled = name.endsWith(".ts") && !("typescript" in process.features && process.features.typescript);
  const program = compiled
    ? join(packageRoot(), "build", "examples", name.replace(/\.ts$/, ".js"))
    : join(packageRoot(), "examples", name);
  const { stdout } = await promisify(execFile)(process.execPath, [program, ...args], { env: environment(env) });
  return stdout;
}

interface Pulled {
  readonly kernelPath: string;
  readonly initrdPath: string;
  readonly rootfsPath: string;
}

test("the complete example: a registry on loopback, an image that is fetched, verified, booted and says hello", async (context) => {
  const { env, folder, machines } = await machineHome(context);
  // A real kernel and a real root filesystem: those of the default image, behind a real server.
  const pulled = envelopeOf(await smolvm(["image", "pull", "default", "--json"], { env })).data as Pulled[];
  const [image] = pulled;
  assert.ok(image);
  const assets = { kernel: image.kernelPath, initrd: image.initrdPath, rootfs: image.rootfsPath };
  const bodies = new Map<string, Buffer>();
  for (const [kind, path] of Object.entries(assets)) bodies.set(`/${kind}`, await readFile(path));
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const body = bodies.get(request.url ?? "");
    requests.push(request.url ?? "");
    response.writeHead(body === undefined ? 404 : 200, { "content-length": body?.length ?? 0 }).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const hello: Record<string, string> = { name: "hello" };
  for (const [path, body] of bodies) {
    hello[`${path.slice(1)}_url`] = `${origin}${path}`;
    hello[`${path.slice(1)}_sha256`] = createHash("sha256").update(body).digest("hex");
  }
  bodies.set("/registry.json", Buffer.from(JSON.stringify({ hello })));

  const cache = join(folder, "cache");
  const own = { ...env, SMOLVM_IMAGE_DIR: cache };
  const first = await example("complete.ts", [`${origin}/registry.json`], own);
  const lines = [
    "Available images:",
    "  [✗] hello",
    "",
    "Using image: hello",
    `  Kernel: ${join(cache, "hello", "vmlinux.bin")}`,
    `  Rootfs: ${join(cache, "hello", "rootfs.ext4")}`,
    "",
    "VM started with IP: 10.0.2.15",
    "Output: Hello from SmolVM!",
    "",
  ];
  assert.deepEqual(first.split("\n"), lines);
  assert.ok(requests.includes("/kernel") && requests.includes("/rootfs"));

  requests.length = 0;
  const second = await example("complete.ts", [`${origin}/registry.json`, "hello"], own);
  assert.deepEqual(second.split("\n"), lines.with(1, "  [✓] hello"));
  assert.deepEqual(requests, ["/registry.json"], "the second time only the registry is fetched");
  assert.deepEqual(await machines(), []);
});

test("the tool for untrusted code answers whatever the code does", async (context) => {
  const { env } = await machineHome(context);
  const printed = await example("untrusted-code.mjs", [], env);
  assert.match(printed, /> echo .*\nexit status 0\n42\n/);
  assert.match(printed, /> cat .*\nexit status 1\ncat: can't open/);
  assert.match(printed, /; while true; do :; done\ntimed out after 3 s\nworking\n/);
  assert.match(printed, /> rm -rf .*\nexit status 0\ngone\n/);
});

test("the file example brings back what the machine made", async (context) => {
  const { env } = await machineHome(context);
  assert.equal(await example("files.mjs", [], env), "apple\nfig\npear\n\nIn the machine: fruit.txt, sorted.txt\n");
});

test("the port example reaches the server in the machine", async (context) => {
  const { env } = await machineHome(context);
  assert.equal(await example("port.mjs", [], env), "200 Hello from the machine\n");
});

test("every example is run by a test, and the README says how it is started", async () => {
  const there = await readdir(join(packageRoot(), "examples"));
  const tested = await readFile(join(packageRoot(), "test", "e2e", "examples.test.ts"), "utf8");
  const readme = await readFile(join(packageRoot(), "README.md"), "utf8");
  for (const file of there) {
    assert.ok(tested.includes(`example("${file}"`), file);
    assert.ok(readme.includes(`\`node examples/${file}`), file);
  }
});
