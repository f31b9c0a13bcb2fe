// What developing smolvm needs from the system besides what using it needs: a compiler for the guest agent, and the real
// servers and judges that the tests hold it against. Installed through apt, after saying so and, on a terminal, asking.
import { existsSync, readSync } from "node:fs";

import { run } from "./steps.mjs";

/** A file that shows a Debian package is there, and the package. */
const COMPILERS = [
  ["/usr/bin/gcc", "gcc"],
  ["/usr/include/stdio.h", "libc6-dev"],
  ["/usr/include/linux/virtio_console.h", "linux-libc-dev"],
];
const TEST_TOOLS = [
  ["/usr/bin/aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"],
  ["/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"],
  ["/usr/bin/qemu-system-aarch64", "qemu-system-arm"],
  ["/sbin/e2fsck", "e2fsprogs"],
  ["/usr/bin/busybox", "busybox-static"],
  ["/usr/bin/lz4", "lz4"],
  ["/usr/bin/openssl", "openssl"],
  ["/usr/bin/pydoc3", "python3"],
  ["/usr/bin/xz", "xz-utils"],
  ["/usr/bin/zstd", "zstd"],
];

export const installCompilers = () => install("the guest agent is compiled with", COMPILERS);
export const installTestTools = () => install("the tests use", TEST_TOOLS);

function install(purpose, list) {
  const missing = list.filter(([path]) => !existsSync(path)).map(([, name]) => name);
  if (missing.length === 0) return;
  console.error(`\n${purpose}: ${missing.join(" ")} (not installed yet)`);
  if (!existsSync("/usr/bin/apt-get")) {
    console.error("Install what your system calls these packages, then try again.");
    process.exit(1);
  }
  if (process.stdin.isTTY && !agreed("Install them with apt-get? [Y/n] ")) process.exit(1);
  apt("update", "-qq");
  apt("install", "-y", "-qq", "--no-install-recommends", ...missing);
}

function agreed(question) {
  process.stderr.write(question);
  const answer = Buffer.alloc(16);
  const length = readSync(0, answer);
  return /^(y(es)?)?$/i.test(answer.subarray(0, length).toString().trim());
}

function apt(...args) {
  const command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", ...args];
  const [program, ...rest] = process.getuid() === 0 ? command : ["sudo", ...command];
  run(program, rest, { stdio: ["inherit", 2, 2] });
}
