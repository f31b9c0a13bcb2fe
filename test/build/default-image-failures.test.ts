import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { defaultImage } from "../../src/build/index.js";
import { HostError, ImageError } from "../../src/errors.js";
import { requireTool } from "../../src/host/tools.js";
import { ImageStore } from "../../src/images/store/index.js";
import { leftovers, other, setEnvironment, shareDownloads, temporaryFolder, useSources } from "./real-archive.js";

shareDownloads();

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

const unusable: Readonly<Record<string, readonly [mount: string, answer: RegExp]>> = {
  "a disk that is too full": [
    "size=50m",
    /^IMAGE_NO_SPACE .*'default': 160\.0 MiB needed, (49|50)\.\d MiB free\. Free some space .* 0\n$/,
  ],
  "a disk that is read-only": ["ro", /^HOST_PERMISSION .*EROFS.* SMOLVM_IMAGE_DIR.* 0\n$/],
};
for (const [what, [mount, answer]] of Object.entries(unusable)) {
  test(`${what} is said to be before anything is downloaded`, (context) => {
    const folder = temporaryFolder(context);
    const script = `
      import { defaultImage } from ${JSON.stringify(new URL("../../src/build/index.js", import.meta.url).href)};
      const steps = [];
      await defaultImage({ cacheDir: ${JSON.stringify(join(folder, "images"))}, onStep: ({ step }) => steps.push(step) }).catch(
        ({ code, message, hint }) => console.log(code, message, hint, steps.length));`;
    // A disk that only the child sees, so nothing is left to unmount.
    const { stdout, stderr } = spawnSync(
      requireTool("unshare"),
      [
        ...["--mount", ...(process.getuid?.() === 0 ? [] : ["--map-root-user"])],
        ...["sh", "-c", `mount -t tmpfs -o ${mount} none "$0" && exec "$@"`, folder],
        ...[process.execPath, "--input-type=module", "-e", script],
      ],
      { encoding: "utf8" },
    );
    assert.match(stdout, answer, stderr);
  });
}

test("a cache folder below a file is a HostError that names it", async (context) => {
  const file = join(temporaryFolder(context), "a-file");
  writeFileSync(file, "");
  await assert.rejects(
    defaultImage({ cacheDir: join(file, "images") }),
    (error) => error instanceof HostError && error.code === "HOST_IO" && error.message.includes(file),
  );
});
