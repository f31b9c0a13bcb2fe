// What the scripts of this folder share: running a program with its output shown, and having node_modules.
import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Runs a program to its end; a failure ends this script with the same status, as there is nothing to go on with. */
export function run(program, args, options = {}) {
  const result = spawnSync(program, args, { cwd: root, stdio: "inherit", ...options });
  if (result.error) throw result.error;
  if (result.status !== 0) process.exit(result.status ?? 1);
}

/** Runs a program that node_modules has. */
export function runBin(name, args) {
  run(process.execPath, [join(root, "node_modules", ".bin", name), ...args]);
}

/** node_modules as the lock file wants it: npm writes its own copy of the lock when it has finished. */
export function installPackages() {
  const wanted = statSync(join(root, "package-lock.json")).mtimeMs;
  const marker = join(root, "node_modules", ".package-lock.json");
  if (existsSync(marker) && statSync(marker).mtimeMs >= wanted) return;
  run("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
}

/** QEMU and the rest of what machines need. Asks on a terminal; elsewhere there is nobody to ask. */
export function setUpHost() {
  const answer = process.stdin.isTTY ? [] : ["--yes"];
  run(process.execPath, [join(root, "dist", "cli", "bin.js"), "setup", ...answer]);
}
