// Lists the images, makes sure that one is here and verified, boots it, and runs a command in it.
// Takes a registry (a file or an address) as its argument; without one it uses the images that smolvm knows by itself.
import { BUILTIN_IMAGES, ImageManager, loadRegistry, VM } from "smolvm";

const from = process.argv[2];
const manager = new ImageManager({ registry: from === undefined ? BUILTIN_IMAGES : await loadRegistry(from) });

console.log("Available images:");
for (const name of manager.listAvailable()) {
  const cached = (await manager.isCached(name)) ? "✓" : "✗";
  console.log(`  [${cached}] ${name}`);
}

const image = await manager.ensureImage("hello");

console.log(`\nUsing image: ${image.name}`);
console.log(`  Kernel: ${image.kernelPath}`);
console.log(`  Rootfs: ${image.rootfsPath}`);

const vm = new VM({ kernelPath: image.kernelPath, rootfsPath: image.rootfsPath });
try {
  await vm.start();
  console.log(`\nVM started with IP: ${vm.getIp()}`);

  const result = await vm.run("echo 'Hello from SmolVM!'");
  console.log(`Output: ${result.output}`);
} finally {
  await vm.delete();
}
