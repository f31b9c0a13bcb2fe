// npm test: builds, then runs every compiled test file. Names given on the command line choose files that contain them:
//   npm test                      everything
//   npm test -- store             files with "store" in their path
//   npm test -- --no-machines     what needs no virtual machine
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { run as runTests } from "node:test";
import { spec } from "node:test/reporters";

import { installPackages, root, run, runBin, setUpHost } from "./steps.mjs";
import { installCompilers, installTestTools } from "./tools.mjs";

const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const machines = !process.argv.includes("--no-machines");

installPackages();
installCompilers();
installTestTools();
run(process.execPath, [join(root, "scripts", "build.mjs")]);
runBin("tsc", ["-p", "tsconfig.json"]);
setUpHost();

// The sources say which tests there are: a compiled file may be left over from a test that was renamed.
const compiled = join(root, "build", "test");
const files = readdirSync(join(root, "test"), { recursive: true })
  .filter((file) => file.endsWith(".test.ts"))
  .filter((file) => wanted.length === 0 || wanted.some((word) => file.includes(word)))
  .map((file) => join(compiled, file.replace(/\.ts$/, ".js")))
  .sort();
const isMachineTest = (file) => relative(compiled, file).startsWith("e2e");

let passed = 0;
let failed = 0;
// Machines under emulation keep a core each, and a starved guest tells nothing: those files run one after the other.
await runFiles(
  files.filter((file) => !isMachineTest(file)),
  2,
);
if (machines) await runFiles(files.filter(isMachineTest), 1);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;

async function runFiles(chosen, concurrency) {
  if (chosen.length === 0) return;
  const events = runTests({ files: chosen, concurrency, timeout: 600_000 });
  events.on("test:pass", (event) => count(event, () => (passed += 1)));
  events.on("test:fail", (event) => count(event, () => (failed += 1)));
  const report = events.compose(new spec());
  report.pipe(process.stdout, { end: false });
  await new Promise((resolve, reject) => report.on("end", resolve).on("error", reject));
}

function count(event, add) {
  if (event.details?.type !== "suite" && event.skip === undefined) add();
}
