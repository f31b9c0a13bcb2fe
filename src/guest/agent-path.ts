import { existsSync } from "node:fs";
import { join } from "node:path";

import { HostError } from "../errors.js";
import { packageRoot } from "../host/package.js";

export type GuestArch = "x86_64" | "aarch64";

/** The static agent binary for an architecture, as the build left it in the package. A HostError where it is missing. */
export function agentPath(arch: GuestArch): string {
  const path = join(packageRoot(), "dist", "guest-agent", arch, "smolvm-agent");
  if (existsSync(path)) return path;
  throw new HostError("HOST_UNSUPPORTED", `The guest agent for ${arch} was not built into this package.`, {
    hint: `Build it on Linux with gcc (for the other architecture: ${arch === "aarch64" ? "gcc-aarch64-linux-gnu" : "gcc-x86-64-linux-gnu"}): npm run build`,
    details: { arch, path },
  });
}
