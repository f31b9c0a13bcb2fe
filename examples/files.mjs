// Sends a folder into a machine, works on it there, and fetches the result.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { SmolVM } from "smolvm";

const here = await mkdtemp(join(tmpdir(), "smolvm-example-"));
const vm = await SmolVM.create();
try {
  await writeFile(join(here, "fruit.txt"), "pear\napple\nfig\n");

  await vm.files.upload(here, "/job");
  await vm.run("sort fruit.txt > sorted.txt", { cwd: "/job" });
  await vm.files.download("/job/sorted.txt", join(here, "sorted.txt"));

  console.log(await readFile(join(here, "sorted.txt"), "utf8"));
  console.log("In the machine:", (await vm.files.readdir("/job")).join(", "));
} finally {
  await vm.delete();
  await rm(here, { recursive: true });
}
