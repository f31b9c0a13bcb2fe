// complete.mjs in TypeScript: `await using` deletes the machine whatever happens. For tsx, a compiler, or Node 24.
import { BUILTIN_IMAGES, ImageManager, loadRegistry, VM } from "smolvm";

const [from, name = "hello"] = process.argv.slice(2);
const manager = new ImageManager({ registry: from === undefined ? BUILTIN_IMAGES : await loadRegistry(from) });

console.log("Available images:");
for (const available of manager.listAvailable()) {
  const cached = (await manager.isCached(available)) ? "✓" : "✗";
  console.log(`  [${cached}] ${available}`);
}

const image = await manager.ensureImage(name);

console.log(`\nUsing image: ${image.name}`);
console.log(`  Kernel: ${image.kernelPath}`);
console.log(`  Rootfs: ${image.rootfsPath}`);

await using vm = new VM({ kernelPath: image.kernelPath, rootfsPath: image.rootfsPath });
await vm.start();
console.log(`\nVM started with IP: ${vm.getIp()}`);

const result = await vm.run("echo 'Hello from SmolVM!'");
console.log(`Output: ${result.output}`);
