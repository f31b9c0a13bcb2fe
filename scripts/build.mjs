// npm run build: the library and the command line to dist/, the guest agent for every architecture that has a compiler here.
import { chmodSync, rmSync } from "node:fs";
import { join } from "node:path";

import { buildAgent } from "./agent.mjs";
import { bundleCommandLine } from "./bundle.mjs";
import { root, runBin } from "./steps.mjs";

if (process.argv.includes("--clean")) rmSync(join(root, "dist"), { recursive: true, force: true });
runBin("tsc", ["-p", "tsconfig.build.json"]);
chmodSync(join(root, "dist", "cli", "bin.js"), 0o755);
await bundleCommandLine();
buildAgent();
