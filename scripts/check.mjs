// npm run check: everything that can be said of the code without running it. All checks run, then one verdict.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

import { installPackages, root, run } from "./steps.mjs";
import { installCompilers } from "./tools.mjs";

installPackages();
installCompilers();
run(process.execPath, [join(root, "scripts", "build.mjs"), "--clean"]);

const bin = (name, ...args) => [process.execPath, join(root, "node_modules", ".bin", name), ...args];
const CHECKS = [
  // node_modules may be older than the lock file's last change: npm itself says whether a fresh clone could install it.
  ["lock file", ["npm", "ci", "--dry-run", "--no-audit", "--no-fund", "--loglevel=error"]],
  ["format", bin("prettier", "--check", "--log-level=warn", ".")],
  ["types", bin("tsc", "-p", "tsconfig.json", "--noEmit")],
  ["lint", bin("eslint", "--max-warnings=0", ".")],
  ["unused code and dependencies", bin("knip")],
  ["package", bin("publint", "--strict")],
  ["package types", bin("attw", "--pack", ".", "--profile", "esm-only", "--quiet")],
];

const failed = CHECKS.filter(([label, [program, ...args]]) => {
  const started = Date.now();
  const { status } = spawnSync(program, args, { cwd: root, stdio: "inherit" });
  console.log(`${status === 0 ? "ok    " : "FAILED"} ${label} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  return status !== 0;
});
process.exitCode = failed.length === 0 ? 0 : 1;
