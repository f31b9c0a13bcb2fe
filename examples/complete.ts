// Lists the images, makes sure that one is here and verified, boots it, and runs a command in it.
// Takes a registry (a file or an address) and the name of an image in it; without them it uses the images that smolvm
// knows by itself, and of those "hello", whose kernel is made for Firecracker.
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

// A compiler, or Node 24, takes `await using vm = …` instead of the try and the finally.
const vm = new VM({ kernelPath: image.kernelPath, rootfsPath: image.rootfsPath });
try {
  await vm.start();
  console.log(`\nVM started with IP: ${vm.getIp()}`);

  const result = await vm.run("echo 'Hello from SmolVM!'");
  console.log(`Output: ${result.output}`);
} finally {
  await vm.delete();
}
