// Bundles what the shell starts into one CommonJS file, dist/cli/smolvm.cjs. Node 20 takes some 5 ms to get ready for modules
// and another for each few of them, and `smolvm --version` is to take hardly longer than Node itself.
import { chmodSync } from "node:fs";
import { dirname, join, relative } from "node:path";

import { build } from "esbuild";

import { root } from "./steps.mjs";

const source = join(root, "src");
const output = join(root, "dist", "cli");

/** Bundled are the command line and the list of images; what is loaded later than those stays a module of its own. */
const laterModules = {
  name: "later-modules",
  setup({ onResolve }) {
    onResolve({ filter: /^\./ }, ({ kind, path, importer }) => {
      if (kind !== "dynamic-import") return undefined;
      const module = relative(source, join(dirname(importer), path));
      const bundled = module === "images/index.js" || (module.startsWith("cli/") && module !== "cli/bin.js");
      if (bundled) return undefined;
      const fromOutput = relative("cli", module);
      return { path: fromOutput.startsWith(".") ? fromOutput : `./${fromOutput}`, external: true };
    });
  },
};

export async function bundleCommandLine() {
  const file = join(output, "smolvm.cjs");
  await build({
    entryPoints: [join(source, "cli", "smolvm.ts")],
    outfile: file,
    bundle: true,
    format: "cjs",
    platform: "node",
    target: "node20.19",
    logLevel: "warning",
    plugins: [laterModules],
    banner: { js: '#!/usr/bin/env node\nconst moduleUrl = require("node:url").pathToFileURL(__filename).href;' },
    define: { "import.meta.url": "moduleUrl" },
  });
  chmodSync(file, 0o755);
}
