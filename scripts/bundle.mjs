// Bundles what the shell starts into one CommonJS file, dist/cli/smolvm.cjs. Node 20 takes some 5 ms to get ready for modules
// and another for each few of them, and `smolvm --version` is to take hardly longer than Node itself. All other commands go
// on in the modules of dist/cli/bundle, which are few: the shell waits for them before a machine even begins to boot.
import { chmodSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";

import { build } from "esbuild";

import { root } from "./steps.mjs";

const source = join(root, "src");
const output = join(root, "dist", "cli");
const bundle = join(output, "bundle");

/** Bundled are the command line and the list of images; what is loaded later than those stays a module of its own. */
const laterModules = {
  name: "later-modules",
  setup({ onResolve }) {
    onResolve({ filter: /^\./ }, ({ kind, path, importer }) => {
      if (kind !== "dynamic-import") return undefined;
      const module = relative(source, join(dirname(importer), path));
      const bundled = module === "images/index.js" || (module.startsWith("cli/") && module !== "cli/bin.js");
      if (bundled) return undefined;
      const fromOutput = relative("cli", module === "cli/bin.js" ? "cli/bundle/bin.js" : module);
      return { path: fromOutput.startsWith(".") ? fromOutput : `./${fromOutput}`, external: true };
    });
  },
};

/** A bundled module finds the files beside it (workers, package.json) as if it still were where tsc has put it. */
const placesOfModules = {
  name: "places-of-modules",
  setup({ onLoad }) {
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const place = relative(bundle, join(root, "dist", relative(source, path))).replace(/\.ts$/, ".js");
      const url = `new URL(${JSON.stringify(place)}, import.meta.url).href`;
      return { loader: "ts", contents: readFileSync(path, "utf8").replaceAll("import.meta.url", url) };
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
  rmSync(bundle, { recursive: true, force: true });
  await build({
    entryPoints: [join(source, "cli", "bin.ts")],
    outdir: bundle,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    logLevel: "warning",
    plugins: [placesOfModules],
  });
}
