import assert from "node:assert/strict";
import { once } from "node:events";
import { access, chmod, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";

import { serveImages } from "./registry.js";
import { envelopeOf, onTerminal, smolvm, startSmolvm, temporaryFolder } from "./smolvm.js";

interface Listed {
  readonly name: string;
  readonly cached: boolean;
}

test("image ls shows what is here before and after a pull", async (context) => {
  const { env } = await serveImages(context);
  const before = await smolvm(["image", "ls"], { env });
  assert.equal(before.status, 0, before.stderr);
  assert.match(before.stdout.toString(), /^NAME +HERE +ON DISK +SIZE +VERIFIED +SOURCE\none +✗ .*\ntwo +✗ .*\n$/);
  const pulled = await smolvm(["image", "pull", "one"], { env });
  assert.equal(pulled.status, 0, pulled.stderr);
  assert.equal(pulled.stdout.toString(), "one\n");
  const after = envelopeOf(await smolvm(["image", "ls", "--json"], { env })).data as Listed[];
  assert.deepEqual(
    after.map(({ name, cached }) => [name, cached]),
    [
      ["one", true],
      ["two", false],
    ],
  );
});

test("several images are pulled at once, and what is here is not fetched again", async (context) => {
  const { env, requests } = await serveImages(context);
  const ran = await smolvm(["image", "pull", "one", "two", "--json"], { env });
  assert.equal(ran.status, 0, ran.stderr);
  const data = envelopeOf(ran).data as { name: string; kernelPath: string; rootfsPath: string }[];
  assert.deepEqual(
    data.map(({ name }) => name),
    ["one", "two"],
  );
  for (const { kernelPath, rootfsPath } of data) await Promise.all([access(kernelPath), access(rootfsPath)]);
  const fetched = requests.length;
  assert.ok(fetched >= 4);
  assert.equal((await smolvm(["image", "pull", "two", "one"], { env })).status, 0);
  assert.equal(requests.length, fetched);
});

test("--registry takes the place of SMOLVM_REGISTRY", async (context) => {
  const { registry, env } = await serveImages(context);
  const folder = await temporaryFolder(context);
  const elsewhere = join(folder, "none.json");
  await writeFile(elsewhere, "{}");
  const listed = await smolvm(["image", "ls", "--registry", registry], { env: { ...env, SMOLVM_REGISTRY: elsewhere } });
  assert.match(listed.stdout.toString(), /^one /m);
});

test("without a registry the built-in images are listed", async (context) => {
  const folder = await temporaryFolder(context);
  const { stdout } = await smolvm(["image", "ls"], { env: { SMOLVM_HOME: folder } });
  assert.match(stdout.toString(), /^hello +✗/m);
  assert.match(stdout.toString(), /^quickstart-x86_64 +✗/m);
});

test("progress on something that is no terminal is plain lines", async (context) => {
  const { env } = await serveImages(context);
  const { stderr } = await smolvm(["image", "pull", "one"], { env });
  assert.match(stderr, /^smolvm: downloading one kernel/m);
  assert.match(stderr, /^smolvm: downloading one rootfs/m);
  assert.ok(!stderr.includes("\u001b"), stderr);
});

test("on a terminal every file has a bar, with rate and time left, drawn in place", async (context) => {
  const { env } = await serveImages(context, { size: 4_000_000, pauseMs: 120 });
  const { status, output } = await onTerminal(["image", "pull", "one", "two"], [], { env });
  assert.equal(status, 0, output);
  for (const label of ["one kernel", "one rootfs", "two kernel", "two rootfs"])
    assert.ok(output.includes(label), label);
  assert.match(output, /\[#+-+\] +\d+ %/);
  assert.match(output, /MiB of 3\.8 MiB {2}[\d.]+ [KM]iB\/s {2}[\d.]+ s left/);
  assert.match(output, /\u001b\[\dF/, "lines are drawn over the ones before");
  assert.match(output, /one kernel {2}✓ 3\.8 MiB/);
});

test("with CI or TERM=dumb nothing is drawn in place on a terminal either", async (context) => {
  const { env } = await serveImages(context);
  for (const [index, quiet] of [{ CI: "true" }, { TERM: "dumb" }].entries()) {
    const { output } = await onTerminal(["image", "pull", index === 0 ? "one" : "two"], [], {
      env: { ...env, ...quiet },
    });
    assert.ok(!/\u001b\[\dF/.test(output), output);
    assert.match(output, /smolvm: downloading/);
  }
});

test("NO_COLOR takes the colours from an error on a terminal", async () => {
  const coloured = await onTerminal(["nonsense"], []);
  assert.match(coloured.output, /\u001b\[31msmolvm:\u001b\[0m Unknown command/);
  const plain = await onTerminal(["nonsense"], [], { env: { NO_COLOR: "1" } });
  assert.ok(!plain.output.includes("\u001b"), plain.output);
});

test("an unknown image is an error that lists those there are", async (context) => {
  const { env } = await serveImages(context);
  const ran = await smolvm(["image", "pull", "three", "--json"], { env });
  assert.equal(ran.status, 1);
  const { error, ok, exitCode } = envelopeOf(ran);
  assert.deepEqual([ok, exitCode, error?.code], [false, 1, "IMAGE_UNKNOWN"]);
  assert.equal(error?.message, "Unknown image: 'three'. Available images: one, two");
  assert.match(ran.stderr, /^smolvm: Unknown image: 'three'/m);
});

test("when several images can't be had, each is said", async (context) => {
  const { env } = await serveImages(context);
  const { status, stderr } = await smolvm(["image", "pull", "three", "one", "four"], { env });
  assert.equal(status, 1);
  assert.match(stderr, /Unknown image: 'three'/);
  assert.match(stderr, /Unknown image: 'four'/);
  const listed = envelopeOf(await smolvm(["image", "ls", "--json"], { env })).data as Listed[];
  assert.ok(
    listed.some(({ name, cached }) => name === "one" && cached),
    "the one that could be had is here",
  );
});

test("an image without digests is taken with a warning in smolvm's own form", async (context) => {
  const { env } = await serveImages(context, { digests: false });
  const { status, stderr } = await smolvm(["image", "pull", "one"], { env });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^smolvm: warning: Image 'one' could not be verified: .*\nhint: .*digest/m);
  assert.ok(!stderr.includes("(node:"), stderr);
});

test("an empty image name is a usage error", async (context) => {
  const { env } = await serveImages(context);
  const { status, stderr } = await smolvm(["image", "pull", ""], { env });
  assert.equal(status, 2);
  assert.match(stderr, /image name cannot be empty/);
});

test("image verify finds a flipped byte, says what was expected, and pull mends it", async (context) => {
  const { env, folder } = await serveImages(context);
  await smolvm(["image", "pull", "one", "two"], { env });
  const whole = await smolvm(["image", "verify"], { env });
  assert.equal(whole.status, 0, whole.stderr);
  assert.equal(whole.stdout.toString(), "✓ one\n✓ two\n");

  const path = join(folder, "home", "images", "one", "rootfs.ext4");
  const bytes = await readFile(path);
  bytes[1000] = (bytes[1000] ?? 0) ^ 1;
  await chmod(path, 0o644);
  await writeFile(path, bytes);
  const damaged = await smolvm(["image", "verify", "one"], { env });
  assert.equal(damaged.status, 1);
  assert.equal(damaged.stdout.toString(), "✗ one\n");
  assert.match(
    damaged.stderr,
    /the rootfs of 'one' is damaged\n {2}expected: [0-9a-f]{64}\n {2}actual: {3}[0-9a-f]{64}\n/,
  );
  const json = envelopeOf(await smolvm(["image", "verify", "one", "--json"], { env }));
  assert.equal(json.error?.code, "IMAGE_CHECKSUM_MISMATCH");
  assert.equal(json.error.hint, "Run: smolvm image pull one");

  assert.equal((await smolvm(["image", "pull", "one"], { env })).status, 0);
  assert.equal((await smolvm(["image", "verify", "one"], { env })).status, 0);
});

test("verify and rm go through all that they are given, also where one of them fails", async (context) => {
  const { env } = await serveImages(context);
  await smolvm(["image", "pull", "one", "two"], { env });
  const verified = await smolvm(["image", "verify", "ghost", "two", "one"], { env });
  assert.equal(verified.status, 1);
  assert.equal(verified.stdout.toString(), "✓ two\n✓ one\n");
  assert.match(verified.stderr, /'ghost'/);

  const removed = envelopeOf(await smolvm(["image", "rm", "one", "ghost", "two", "--json"], { env }));
  assert.equal(removed.exitCode, 1);
  const rows = removed.data as { name: string; ok: boolean; freedBytes?: number; error: { code: string } | null }[];
  assert.deepEqual(
    rows.map(({ name, ok, freedBytes = 0, error }) => [name, ok, freedBytes > 0, error?.code]),
    [
      ["one", true, true, undefined],
      ["ghost", false, false, removed.error?.code],
      ["two", true, true, undefined],
    ],
  );
});

test("image inspect prints the digests and paths as JSON", async (context) => {
  const { env } = await serveImages(context);
  await smolvm(["image", "pull", "one"], { env });
  const { stdout } = await smolvm(["image", "inspect", "one"], { env });
  const details = JSON.parse(stdout.toString()) as { name: string; assets: { kind: string; contentDigest: string }[] };
  assert.equal(details.name, "one");
  assert.deepEqual(details.assets.map(({ kind }) => kind).sort(), ["kernel", "rootfs"]);
  for (const { contentDigest } of details.assets) assert.match(contentDigest, /^[0-9a-f]{64}$/);
});

test("image rm and prune free the space, prune only when it is told to", async (context) => {
  const { env } = await serveImages(context);
  await smolvm(["image", "pull", "one", "two"], { env });
  const removed = await smolvm(["image", "rm", "one"], { env });
  assert.equal(removed.status, 0, removed.stderr);
  assert.equal(removed.stdout.toString(), "one\n");
  const listed = envelopeOf(await smolvm(["image", "ls", "--json"], { env })).data as Listed[];
  assert.deepEqual(
    listed.filter(({ cached }) => cached).map(({ name }) => name),
    ["two"],
  );
  const dry = envelopeOf(await smolvm(["image", "prune", "--json"], { env })).data as { dryRun: boolean };
  const done = envelopeOf(await smolvm(["image", "prune", "--yes", "--json"], { env })).data as { removed: unknown[] };
  assert.ok(dry.dryRun || done.removed.length === 0);
  assert.equal((await smolvm(["image", "verify", "two"], { env })).status, 0);
});

test("an image goes to another cache through an archive, without the network", async (context) => {
  const { env, folder, requests } = await serveImages(context);
  await smolvm(["image", "pull", "one"], { env });
  const archive = join(folder, "one.smolvm");
  const exported = await smolvm(["image", "export", "one", archive], { env });
  assert.equal(exported.status, 0, exported.stderr);
  const fetched = requests.length;
  const other = { ...env, SMOLVM_HOME: join(folder, "other") };
  const imported = await smolvm(["image", "import", "--name", "again", archive], { env: other });
  assert.equal(imported.status, 0, imported.stderr);
  assert.equal(imported.stdout.toString(), "again\n");
  assert.equal((await smolvm(["image", "verify", "again"], { env: other })).status, 0);
  assert.equal(requests.length, fetched);
});

test("what is here needs no server of a registry", async (context) => {
  const { env, folder } = await serveImages(context);
  assert.equal((await smolvm(["image", "pull", "one"], { env })).status, 0);
  let asked = 0;
  const closed = createServer((socket) => {
    asked += 1;
    socket.destroy();
  }).listen(0, "127.0.0.1");
  context.after(() => closed.close());
  await once(closed, "listening");
  const address = `http://127.0.0.1:${(closed.address() as AddressInfo).port}`;
  const away = { ...env, SMOLVM_REGISTRY: `${address}/registry.json` };
  const archive = join(folder, "one.smolvm");
  for (const args of [
    ["export", "one", archive],
    ["verify", "one"],
    ["rm", "one"],
    ["import", archive],
    ["prune", "--yes"],
  ]) {
    const ran = await smolvm(["image", ...args], { env: away });
    assert.equal(ran.status, 0, `${args[0] ?? ""}: ${ran.stderr}`);
    assert.equal(asked, 0, `${args[0] ?? ""} did not try the registry`);
    assert.ok(!ran.stderr.includes("registry"), ran.stderr);
  }
  closed.close();
  for (const args of [["ls"], ["inspect", "one"], ["verify"]]) {
    const ran = await smolvm(["image", ...args], { env: away });
    assert.equal(ran.status, 0, ran.stderr);
    assert.match(ran.stdout.toString(), /one/);
  }
  const listed = await smolvm(["image", "ls"], { env: away });
  assert.match(listed.stderr, /Download failed for http:\/\/127\.0\.0\.1:.*\n.*only what is here is known/);
  const unknown = await smolvm(["image", "rm", "two"], { env });
  assert.match(unknown.stderr, /Image 'two' is not in the cache/, "the registry knows it");
});

test("image rm keeps what is not the image's, and says so", async (context) => {
  const { env } = await serveImages(context);
  await smolvm(["image", "pull", "one"], { env });
  const notes = join(env["SMOLVM_HOME"] ?? "", "images", "one", "notes.txt");
  await writeFile(notes, "mine");
  const { status, stderr } = await smolvm(["image", "rm", "one"], { env });
  assert.equal(status, 0, stderr);
  assert.ok(stderr.includes(`kept, as it is not part of the image: ${notes}`), stderr);
  assert.equal(await readFile(notes, "utf8"), "mine");
});

test("image import says what --trust is, and takes it", async (context) => {
  const { env, folder } = await serveImages(context);
  const archive = join(folder, "one.smolvm");
  await smolvm(["image", "pull", "one"], { env });
  await smolvm(["image", "export", "one", archive], { env });
  const imported = await smolvm(["image", "import", "--trust", "--force", archive], { env });
  assert.equal(imported.status, 0, imported.stderr);
  assert.match(
    (await smolvm(["image", "import", "--help"], { env })).stdout.toString(),
    /--trust +Believe the archive/,
  );
});

test("Ctrl-C ends the waiting for a registry at once, and leaves nothing behind", async (context) => {
  const folder = await temporaryFolder(context);
  const temporary = join(folder, "tmp");
  await mkdir(temporary);
  let asked: () => void = () => undefined;
  const silent = createHttpServer(() => asked()).listen(0, "127.0.0.1");
  context.after(() => {
    silent.closeAllConnections();
    silent.close();
  });
  await once(silent, "listening");
  const registry = `http://127.0.0.1:${(silent.address() as AddressInfo).port}/registry.json`;
  for (const args of [
    ["image", "ls"],
    ["image", "pull", "one"],
    ["image", "rm", "one"],
    ["image", "verify"],
    ["image", "verify", "one"],
    ["image", "inspect", "one"],
    ["image", "export", "one", join(folder, "one.smolvm")],
    ["create", "--image", "one"],
  ]) {
    const waiting = new Promise<void>((resolve) => (asked = resolve));
    const child = startSmolvm([...args, "--registry", registry], { env: { SMOLVM_HOME: folder, TMPDIR: temporary } });
    const ended = once(child, "close") as Promise<[number | null]>;
    await waiting;
    child.kill("SIGINT");
    // Where nothing else ends it the program does so by itself, but only after 20 s.
    const guard = setTimeout(() => child.kill("SIGKILL"), 10_000);
    const [code] = await ended;
    clearTimeout(guard);
    assert.equal(code, 130, args.join(" "));
    assert.deepEqual(await readdir(temporary), []);
  }
});

test("Ctrl-C during a pull ends it with 130, and the next pull has the image", async (context) => {
  const { env } = await serveImages(context, { size: 2_000_000, pauseMs: 150 });
  for (const [signal, status] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const) {
    const child = startSmolvm(["image", "pull", "one", "--json"], { env });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => {
      stderr += chunk.toString();
      // Once: a second one ends the program as it is.
      if (stderr.includes("downloading one rootfs") && !child.killed) child.kill(signal);
    });
    const [code] = (await once(child, "close")) as [number | null];
    assert.equal(code, status, stderr);
    const { error, exitCode } = JSON.parse(stdout) as { error: { code: string }; exitCode: number };
    assert.deepEqual([error.code, exitCode], ["INTERRUPTED", status]);
  }
  const pulled = await smolvm(["image", "pull", "one"], { env });
  assert.equal(pulled.status, 0, pulled.stderr);
});
