// A program that brings images, to be killed and to be run many at once. Its order comes as JSON in the first argument.
import { ImageManager, type ImageSourceFields } from "../../../src/images/index.js";

export interface Order {
  readonly cacheDir: string;
  /** Registries that describe the same name differently, brought one after the other. */
  readonly registries: readonly Readonly<Record<string, ImageSourceFields>>[];
  readonly name: string;
  /** Start over after the last one, until killed. */
  readonly forever: boolean;
}

const order = JSON.parse(process.argv[2] ?? "") as Order;
const managers = order.registries.map((registry) => new ImageManager({ cacheDir: order.cacheDir, registry }));

process.stdout.write("ready\n");
do {
  for (const manager of managers) await manager.ensureImage(order.name);
} while (order.forever);
process.stdout.write("done\n");
