// npm start: from a fresh clone to a real machine that says hello. The first run installs what is missing and makes the
// default image; later runs need no network and only boot.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

import { installPackages, root, run } from "./steps.mjs";
import { installCompilers } from "./tools.mjs";

const script = (name, ...args) => run(process.execPath, [join(root, ...name.split("/")), ...args]);
const cli = join(root, "dist", "cli", "bin.js");

const steps = [
  ["npm packages", () => installPackages()],
  ["compiler for the guest agent", () => installCompilers()],
  ["build", () => script("scripts/build.mjs")],
  ["QEMU and other host tools", () => script("dist/cli/bin.js", "setup")],
  ["default image", () => script("dist/cli/bin.js", "image", "pull", "default")],
  ["boot, run, stop", () => script("dist/cli/bin.js", "run", "--", "echo 'Hello from SmolVM!'; uname -a")],
];

const times = [];
for (const [label, step] of steps) {
  const started = performance.now();
  step();
  times.push([label, (performance.now() - started) / 1000]);
}

console.log("");
for (const [label, seconds] of times) console.log(`${seconds.toFixed(2).padStart(8)} s  ${label}`);
console.log(`
Next:
  npx smolvm run -- ls /            a command in a machine of its own
  npx smolvm doctor                 what this host can do
  npm test                          everything, checked
`);
