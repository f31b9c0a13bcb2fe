// npm run check: everything that can be said of the code without running it. All checks run, then one verdict.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

import { installPackages, root, run } from "./steps.mjs";
import { installCompilers } from "./tools.mjs";

installPackages();
installCompilers();
run(process.execPath, [join(root, "scripts", "build.mjs"), "--clean"]);

const CHECKS = [
  ["format", "prettier", ["--check", "--log-level=warn", "."]],
  ["types", "tsc", ["-p", "tsconfig.json", "--noEmit"]],
  ["lint", "eslint", ["--max-warnings=0", "."]],
  ["unused code and dependencies", "knip", []],
  ["package", "publint", ["--strict"]],
  ["package types", "attw", ["--pack", ".", "--profile", "esm-only", "--quiet"]],
];

const failed = CHECKS.filter(([label, program, args]) => {
  const started = Date.now();
  const { status } = spawnSync(process.execPath, [join(root, "node_modules", ".bin", program), ...args], {
    cwd: root,
    stdio: "inherit",
  });
  console.log(`${status === 0 ? "ok    " : "FAILED"} ${label} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  return status !== 0;
});
process.exitCode = failed.length === 0 ? 0 : 1;
