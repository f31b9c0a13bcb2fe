// npm start: from a fresh clone to a real machine that says hello. The first run installs what is missing and makes the
// default image; later runs need no network and only boot.
import { join } from "node:path";

import { installPackages, root, run, setUpHost } from "./steps.mjs";
import { installCompilers } from "./tools.mjs";

const smolvm = (...args) => run(process.execPath, [join(root, "dist", "cli", "bin.js"), ...args]);

const steps = [
  ["npm packages", () => installPackages()],
  ["compiler for the guest agent", () => installCompilers()],
  ["build", () => run(process.execPath, [join(root, "scripts", "build.mjs")])],
  ["QEMU and other host tools", () => setUpHost()],
  ["default image", () => smolvm("image", "pull", "default")],
  ["boot, run, stop", () => smolvm("run", "--", "sh", "-c", "echo 'Hello from SmolVM!'; uname -a")],
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
