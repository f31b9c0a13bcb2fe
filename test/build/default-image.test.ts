import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";

import { HostError, ImageError, ValidationError } from "../../src/errors.js";
import { defaultImage, type DefaultImageOptions, defaultKernel } from "../../src/build/index.js";
import { findTool, requireTool } from "../../src/host/tools.js";
import type { LocalImage } from "../../src/images/index.js";
import { ImageStore } from "../../src/images/store/index.js";
import { ArchiveProxy } from "./archive-proxy.js";
import { check, debugfs } from "./ext4/image.js";

/* These make the real image of real packages, so they need the archive that this host is configured for. */

const proxy = new ArchiveProxy();
before(async () => {
  process.env["http_proxy"] ??= await proxy.listen();
});
after(() => proxy.close());

function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-default-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Sets variables of the environment for as long as the test runs. */
function setEnvironment(context: TestContext, values: Readonly<Record<string, string>>): void {
  const before = Object.keys(values).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, values);
  context.after(() => {
    for (const [name, value] of before) {
      if (value === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = value;
    }
  });
}

/** Lets apt know these sources and no others. */
function useSources(context: TestContext, folder: string, list: string): void {
  const sources = join(folder, "sources.list");
  const configuration = join(folder, "apt.conf");
  writeFileSync(sources, list);
  writeFileSync(configuration, `Dir::Etc::sourcelist "${sources}"; Dir::Etc::sourceparts "/dev/null";\n`);
  setEnvironment(context, { APT_CONFIG: configuration, no_proxy: "127.0.0.1" });
}

async function make(options: DefaultImageOptions): Promise<{ image: LocalImage; steps: string[] }> {
  const steps: string[] = [];
  const image = await defaultImage({ ...options, onStep: ({ step }) => steps.push(step) });
  return { image, steps };
}

async function digests(cacheDir: string, name: string): Promise<(string | undefined)[]> {
  const record = await new ImageStore(cacheDir).read(name);
  return [record?.assets.kernel, record?.assets.initrd, record?.assets.rootfs].map((asset) => asset?.contentDigest);
}

/** What a build must not leave behind: anything beside its own mark in the store's folder of temporary files. */
function leftovers(cacheDir: string): string[] {
  const temporary = join(cacheDir, ".tmp");
  if (!existsSync(temporary)) return [];
  return readdirSync(temporary, { recursive: true, encoding: "utf8" }).filter(
    (path) => path.includes("/") && !path.endsWith("owner.json"),
  );
}

const own = process.arch === "arm64" ? "arm64" : "x86_64";
const other = own === "arm64" ? "x86_64" : "arm64";

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

test("another build gives the same bytes, in lists of its own if the system's are old", async (context) => {
  const first = temporaryFolder(context);
  const second = temporaryFolder(context);
  await make({ cacheDir: first });
  // To the build, a clock that is a month ahead makes the system's lists a month old.
  context.mock.timers.enable({ apis: ["Date"], now: Date.now() + 30 * 24 * 3600 * 1000 });
  const { steps } = await make({ cacheDir: second });
  assert.match(steps[0] ?? "", /lists/);
  assert.deepEqual(await digests(second, "default"), await digests(first, "default"));
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
  for (const stage of ["", "downloading", "unpacking", "making the root", "installing"]) {
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
    if (abortedAt > 0) assert.ok(performance.now() - abortedAt < 2000, `${stage}: ${performance.now() - abortedAt} ms`);
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

test("a host without apt is told what to do instead", async (context) => {
  const cacheDir = temporaryFolder(context);
  const empty = join(cacheDir, "bin");
  mkdirSync(empty);
  setEnvironment(context, { PATH: empty });
  await assert.rejects(defaultImage({ cacheDir: join(cacheDir, "images") }), (error) => {
    assert.ok(error instanceof HostError);
    assert.equal(error.code, "HOST_UNSUPPORTED");
    assert.match(error.hint ?? "", /image pull|image import/);
    return true;
  });
});

test("an archive that can't be reached is an ImageError with apt's own words, a cause and a hint", async (context) => {
  const cacheDir = temporaryFolder(context);
  useSources(context, cacheDir, "deb http://127.0.0.1:9/nowhere stable main\n");
  await assert.rejects(defaultImage({ arch: other, cacheDir }), (error) => {
    assert.ok(error instanceof ImageError, String(error));
    assert.equal(error.code, "IMAGE_BUILD_FAILED");
    assert.match(error.message, /127\.0\.0\.1:9/);
    assert.match(error.hint ?? "", /apt-get update/);
    return true;
  });
  assert.deepEqual(leftovers(cacheDir), []);
});

test("an archive without a kernel is an ImageError that names the packages looked for", async (context) => {
  const cacheDir = temporaryFolder(context);
  useSources(context, cacheDir, "");
  await assert.rejects(defaultImage({ arch: other, cacheDir }), (error) => {
    assert.ok(error instanceof ImageError, String(error));
    assert.equal(error.code, "IMAGE_BUILD_FAILED");
    assert.match(error.message, /no package 'linux-image-cloud-(arm64|amd64)' or /);
    return true;
  });
});

const breakages: Readonly<Record<string, (path: string) => void>> = {
  "cut short": (path) => writeFileSync(path, readFileSync(path).subarray(0, 700_000)),
  "with a damaged middle": (path) => {
    const data = readFileSync(path);
    data.fill(0x55, data.length >> 1, (data.length >> 1) + 5000);
    writeFileSync(path, data);
  },
};
for (const [how, damage] of Object.entries(breakages)) {
  test(`a package ${how} after its download is an ImageError, and nothing is installed`, async (context) => {
    const cacheDir = temporaryFolder(context);
    const making = defaultImage({
      cacheDir,
      onStep: ({ step }) => {
        if (!step.startsWith("unpacking")) return;
        const kernel = execFileSync("find", [cacheDir, "-name", "linux-image-*.deb"], { encoding: "utf8" }).trim();
        damage(kernel);
      },
    });
    await assert.rejects(making, (error) => error instanceof ImageError && error.code === "IMAGE_BUILD_FAILED");
    assert.deepEqual(leftovers(cacheDir), []);
    assert.equal(await new ImageStore(cacheDir).read("default"), null);
  });
}

test("a folder that can't be written is a typed error that names it", async (context) => {
  const folder = temporaryFolder(context);
  const file = join(folder, "a-file");
  writeFileSync(file, "");
  await assert.rejects(defaultImage({ cacheDir: join(file, "images") }), (error) => {
    assert.ok(error instanceof HostError || error instanceof ImageError, String(error));
    assert.match(error.message, /a-file/);
    return true;
  });
});

test("a disk that is too full is said to be before anything is downloaded", (context) => {
  const folder = temporaryFolder(context);
  const script = `
    import { defaultImage } from ${JSON.stringify(new URL("../../src/build/index.js", import.meta.url).href)};
    const steps = [];
    await defaultImage({ cacheDir: ${JSON.stringify(join(folder, "images"))}, onStep: ({ step }) => steps.push(step) }).catch(
      ({ code, message, hint }) => console.log(code, message, hint, steps.length));`;
  // A small disk that only the child sees, so nothing is left to unmount.
  const { stdout, stderr } = spawnSync(
    requireTool("unshare"),
    [
      ...["--mount", ...(process.getuid?.() === 0 ? [] : ["--map-root-user"])],
      ...["sh", "-c", 'mount -t tmpfs -o size=50m none "$0" && exec "$@"', folder],
      ...[process.execPath, "--input-type=module", "-e", script],
    ],
    { encoding: "utf8" },
  );
  assert.match(
    stdout,
    /^IMAGE_NO_SPACE .*'default': 160 MiB are needed, (49|50) MiB are free\. Free some space .* 0\n$/,
    stderr,
  );
});

test("an image of which a file was damaged is made anew", async (context) => {
  const cacheDir = temporaryFolder(context);
  const { image } = await make({ cacheDir });
  const before = await digests(cacheDir, "default");
  chmodSync(image.initrdPath ?? "", 0o644);
  writeFileSync(image.initrdPath ?? "", "damaged");
  const again = await make({ cacheDir });
  assert.ok(again.steps.length > 0);
  assert.deepEqual(await digests(cacheDir, "default"), before);
  assert.notEqual(readFileSync(again.image.initrdPath ?? "", "latin1"), "damaged");
});

test("the tools that the build calls are those that the tests rely on", () => {
  for (const tool of ["apt-get", "apt-cache", "dpkg-deb", "e2fsck", "debugfs", "dumpe2fs"])
    assert.ok(findTool(tool), tool);
});
