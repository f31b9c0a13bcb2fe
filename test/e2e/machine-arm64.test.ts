import assert from "node:assert/strict";
import { after, test } from "node:test";

import { defaultImage } from "../../src/build/index.js";
import { SmolVM, type VMOptions } from "../../src/machine/index.js";
import { ownHome, TEST_IMAGES } from "../machine/setting.js";
import { commandTests } from "../machine/suites/commands.js";
import { fileTests } from "../machine/suites/files.js";

const home = ownHome();
after(() => home.close());

const { kernelPath, rootfsPath } = await defaultImage({ arch: "arm64", cacheDir: TEST_IMAGES });
const create = (options: VMOptions): Promise<SmolVM> => SmolVM.create({ kernelPath, rootfsPath, ...options });

test("an arm64 guest boots, stops and starts again with its disk", async (context) => {
  const started = performance.now();
  const vm = await create({});
  context.diagnostic(`start: ${Math.round(performance.now() - started)} ms`);
  assert.equal((await vm.run("uname -m")).output, "aarch64");
  await vm.run("echo kept > /var/file");
  await vm.stop();
  await vm.start();
  assert.equal((await vm.run("cat /var/file")).output, "kept");
  await vm.delete();
});

commandTests("commands in an arm64 guest", home, create);
fileTests("files, ports and the console of an arm64 guest", home, create);
