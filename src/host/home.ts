import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** Where smolvm keeps everything of one user: `$SMOLVM_HOME`, else `~/.smolvm`. Read at each call, as tests change it. */
export function smolvmHome(): string {
  const set = process.env["SMOLVM_HOME"];
  return set ? resolve(set) : join(homedir(), ".smolvm");
}

/** The image cache: `$SMOLVM_IMAGE_DIR`, else `images` in the home. */
export function imageDir(): string {
  const set = process.env["SMOLVM_IMAGE_DIR"];
  return set ? resolve(set) : join(smolvmHome(), "images");
}

/** One folder per machine. */
export function machinesDir(): string {
  return join(smolvmHome(), "machines");
}
