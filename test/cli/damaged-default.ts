import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ImageStore } from "../../src/images/store/index.js";

export interface DamagedHome {
  /** A home of smolvm, and a PATH on which there is nothing but the programs that make the default image. */
  readonly env: Readonly<Record<string, string>>;
  /** How these were called. They only write it down, and fail. */
  readonly calls: () => Promise<string[]>;
}

/** Makes a home in which an image that was made on this host is damaged. */
export async function homeWithDamaged(folder: string, name: string): Promise<DamagedHome> {
  const store = new ImageStore(join(folder, "images"));
  const asset = async (kind: string): Promise<{ path: string }> => {
    const path = await store.temporaryFile(kind);
    await writeFile(path, kind.repeat(1000));
    return { path };
  };
  const assets = { kernel: await asset("kernel"), rootfs: await asset("rootfs") };
  const { rootfsPath } = await store.install(name, { assets, origin: { kind: "built", details: {} } });
  await chmod(rootfsPath, 0o644);
  await writeFile(rootfsPath, "damaged");

  const bin = join(folder, "bin");
  const log = join(folder, "calls.log");
  await mkdir(bin);
  for (const tool of ["apt-get", "apt-cache", "dpkg-deb"]) {
    await writeFile(join(bin, tool), `#!/bin/sh\necho "${tool} $*" >> ${log}\nexit 1\n`, { mode: 0o755 });
  }
  return {
    env: { SMOLVM_HOME: folder, PATH: bin },
    calls: async () => (await readFile(log, "utf8").catch(() => "")).split("\n").filter((line) => line !== ""),
  };
}
