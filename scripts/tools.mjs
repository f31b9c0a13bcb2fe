// What developing smolvm needs from the system besides what using it needs: compilers for the guest agent, and the real
// servers and judges that the tests hold it against.
import { existsSync } from "node:fs";
import { join } from "node:path";

import { root } from "./steps.mjs";

/** Program or file, and the Debian package that has it. */
const COMPILERS = [
  ["/usr/bin/gcc", "gcc"],
  ["/usr/include/stdio.h", "libc6-dev"],
];
const TEST_TOOLS = [
  ["/usr/bin/aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"],
  ["/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"],
  ["/sbin/e2fsck", "e2fsprogs"],
  ["/usr/bin/qemu-system-aarch64", "qemu-system-arm"],
  ["/usr/bin/openssl", "openssl"],
  ["/usr/bin/python3", "python3-minimal"],
  ["/usr/bin/xz", "xz-utils"],
  ["/usr/bin/zstd", "zstd"],
];

export const installCompilers = () => install(COMPILERS);
export const installTestTools = () => install(TEST_TOOLS);

function install(list) {
  const missing = list.filter(([path]) => !existsSync(path)).map(([, name]) => name);
  if (missing.length === 0) return;
  throw new Error(`missing: ${missing.join(" ")} (${join(root, "scripts")})`);
}
