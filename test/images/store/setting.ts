import { join } from "node:path";
import type { TestContext } from "node:test";

import { ImageManager } from "../../../src/images/index.js";
import { ImageStore } from "../../../src/images/store/index.js";
import { content, Origin, scratch } from "../setting.js";

/** A cache in a home of its own, and a server with an image for it. */
export async function ownCache(t: TestContext) {
  const served = await serveHello(t);
  const cacheDir = join(served.folder, "images");
  setVariable(t, "SMOLVM_HOME", served.folder);
  const manager = new ImageManager({ cacheDir, registry: served.registry });
  return { ...served, cacheDir, manager, store: new ImageStore(cacheDir) };
}

/** Two caches, as on two machines, one image that both know, and the name of an archive to take from one to the other. */
export async function hereAndThere(t: TestContext) {
  const served = await serveHello(t);
  const cache = (name: string) => new ImageManager({ cacheDir: join(served.folder, name), registry: served.registry });
  return { ...served, here: cache("here"), there: cache("there"), archive: join(served.folder, "hello.tar") };
}

async function serveHello(t: TestContext) {
  const origin = await Origin.start(t);
  const files = content();
  return { origin, files, folder: scratch(t), registry: { hello: origin.publish("hello", files, { pinned: true }) } };
}

/** Sets a variable of this process's environment until the test ends. */
function setVariable(t: TestContext, name: string, value: string): void {
  const before = process.env[name];
  process.env[name] = value;
  t.after(() => {
    if (before === undefined) Reflect.deleteProperty(process.env, name);
    else process.env[name] = before;
  });
}
