// One of many processes that want one image at once. Says that it is ready, waits for a line on its standard input, and asks.
import { once } from "node:events";

import { ImageManager, type ImageSourceFields } from "../../src/images/index.js";

export interface Order {
  readonly cacheDir: string;
  readonly source: ImageSourceFields;
}

const { cacheDir, source } = JSON.parse(process.argv[2] ?? "") as Order;
const manager = new ImageManager({ cacheDir, registry: { [source.name]: source } });
process.stdout.write("ready\n");
await once(process.stdin, "data");
const began = performance.now();
await manager.ensureImage(source.name);
process.stdout.write(`${performance.now() - began}\n`);
process.exit(0);
