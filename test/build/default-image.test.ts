import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { defaultImage, type DefaultImageOptions, defaultKernel } from "../../src/build/index.js";
import { ValidationError } from "../../src/errors.js";
import type { LocalImage } from "../../src/images/index.js";
import { ImageStore } from "../../src/images/store/index.js";
import { check, debugfs } from "./ext4/image.js";
import { leftovers, other, own, setEnvironment, shareDownloads, temporaryFolder } from "./real-archive.js";

shareDownloads();

async function make(options: DefaultImageOptions): Promise<{ image: LocalImage; steps: string[] }> {
  const steps: string[] = [];
  const image = await defaultImage({ ...options, onStep: ({ step }) => steps.push(step) });
  return { image, steps };
}

async function digests(cacheDir: string, name: string): Promise<(string | undefined)[]> {
  const record = await new ImageStore(cacheDir).read(name);
  return [record?.assets.kernel, record?.assets.initrd, record?.assets.rootfs].map((asset) => asset?.contentDigest);
}

for (const arch of [own, other]) {
  const name = arch === own ? "default" : `default-${arch}`;

  test(`the default image for ${arch} is made of packages, the same each time, and then comes from the cache`, async (context) => {
    const cacheDir = temporaryFolder(context);
    const { image, steps } = await make({ arch, cacheDir });
    assert.equal(image.name, name);
    assert.ok(steps.length >= 4, steps.join(", "));
    assert.deepEqual(leftovers(cacheDir), []);

    const { status, output } = check({ path: image.rootfsPath });
    assert.equal(status, 0, output);
    assert.ok(statSync(image.rootfsPath).blocks * 512 < 16 * 1024 * 1024, "the free room takes room on the host");
    assert.match(debugfs({ path: image.rootfsPath }, "stat /usr/bin/sh"), /Fast link dest: "busybox"/);
    assert.match(debugfs({ path: image.rootfsPath }, "cat /etc/passwd"), /^smolvm:x:1000:1000:/m);
    const kernel = readFileSync(image.kernelPath);
    if (arch === "arm64") assert.equal(kernel.toString("latin1", 0x38, 0x3c), "ARMd");
    else assert.equal(kernel.readUInt32BE(0), 0x7f454c46);
    const initrd = readFileSync(image.initrdPath ?? "", "latin1");
    assert.match(initrd, /virtio_ring\.ko\n[^\0]*virtio\.ko\n[^\0]*virtio_console\.ko\n/);

    const record = await new ImageStore(cacheDir).read(name);
    assert.equal(record?.origin.kind, "built");
    assert.match(record.origin.details?.["busybox-static"] ?? "", /^\d+:1\./);

    // From here on without any tool and without a network.
    setEnvironment(context, { PATH: cacheDir, http_proxy: "http://127.0.0.1:9" });
    const again = await make({ arch, cacheDir });
    assert.deepEqual(again.image, image);
    assert.deepEqual(again.steps, []);
    const { kernelPath, initrdPath } = await defaultKernel({ arch, cacheDir });
    assert.deepEqual([kernelPath, initrdPath], [image.kernelPath, image.initrdPath]);
  });
}

test("a damaged image is made anew, of the same bytes, and from lists of its own if the system's are old", async (context) => {
  const cacheDir = temporaryFolder(context);
  const { image } = await make({ cacheDir });
  const before = await digests(cacheDir, "default");
  chmodSync(image.initrdPath ?? "", 0o644);
  writeFileSync(image.initrdPath ?? "", "damaged");
  await assert.rejects(make({ cacheDir, offline: true }), { code: "IMAGE_NOT_CACHED" });
  // To the build, a clock that is a month ahead makes the system's lists a month old.
  context.mock.timers.enable({ apis: ["Date"], now: Date.now() + 30 * 24 * 3600 * 1000 });
  const again = await make({ cacheDir });
  assert.match(again.steps[0] ?? "", /lists/);
  assert.deepEqual(await digests(cacheDir, "default"), before);
  assert.notEqual(readFileSync(again.image.initrdPath ?? "", "latin1"), "damaged");
});

test("processes and calls that ask at once make it once", async (context) => {
  const cacheDir = temporaryFolder(context);
  const script = join(cacheDir, "ask.mjs");
  const door = new URL("../../src/build/index.js", import.meta.url).href;
  writeFileSync(
    script,
    `import { defaultImage } from ${JSON.stringify(door)};
     const steps = [];
     const options = { cacheDir: ${JSON.stringify(join(cacheDir, "images"))}, onStep: ({ step }) => steps.push(step) };
     await Promise.all([defaultImage(options), defaultImage(options)]);
     console.log(steps.filter((step) => step.startsWith("downloading")).length);`,
  );
  const ask = async (): Promise<number> => {
    const child = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    for await (const chunk of child.stdout) output += String(chunk);
    return Number(output);
  };
  const counts = await Promise.all([ask(), ask(), ask()]);
  assert.equal(
    counts.reduce((sum, count) => sum + count, 0),
    1,
    `downloads by process: ${counts.join(", ")}`,
  );
});

test("an abort ends it at once with the caller's reason and leaves nothing behind", async (context) => {
  for (const stage of ["", "downloading", "making the root"]) {
    const cacheDir = temporaryFolder(context);
    const controller = new AbortController();
    const reason = new Error("enough");
    if (stage === "") controller.abort(reason);
    let abortedAt = 0;
    const making = defaultImage({
      cacheDir,
      signal: controller.signal,
      onStep: ({ step }) => {
        if (!step.startsWith(stage)) return;
        abortedAt = performance.now();
        controller.abort(reason);
      },
    });
    await assert.rejects(making, (error) => error === reason, stage);
    const took = abortedAt > 0 ? performance.now() - abortedAt : 0;
    context.diagnostic(`${stage}: ended after ${Math.round(took)} ms`);
    assert.ok(took < 20_000, `${stage}: ${took} ms`); // all of it takes a few times as long where this takes that
    assert.deepEqual(leftovers(cacheDir), []);
    assert.equal(await new ImageStore(cacheDir).read("default"), null);
  }
});

test("an architecture that is none is a ValidationError that names what is allowed", async (context) => {
  const cacheDir = temporaryFolder(context);
  for (const arch of ["amd64", "", "X86_64", "riscv64"]) {
    await assert.rejects(
      defaultImage({ arch, cacheDir }),
      (error) =>
        error instanceof ValidationError && error.message === `Bad arch: '${arch}'. It must be one of x86_64, arm64.`,
    );
  }
  assert.deepEqual(readdirSync(cacheDir), []);
});

test("an empty path for the cache is a ValidationError, not the folder that one happens to be in", async () => {
  await assert.rejects(
    defaultImage({ cacheDir: "" }),
    (error) => error instanceof ValidationError && /cacheDir/.test(error.message),
  );
});
