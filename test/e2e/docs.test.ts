import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import ts from "typescript";

import { loadRegistry } from "../../src/images/index.js";
import { packageRoot } from "../../src/host/package.js";
import { machineHome } from "../cli/machines.js";
import { BIN, environment } from "../cli/smolvm.js";
import { type Block, blocksOf, matches, sessionOf } from "../docs/blocks.js";

const PAGES = [
  "README.md",
  ...(await readdir(join(packageRoot(), "docs"))).filter(isPage).map((file) => join("docs", file)),
];

function isPage(file: string): boolean {
  return file.endsWith(".md");
}

for (const page of PAGES) {
  const blocks = blocksOf(await readFile(join(packageRoot(), page), "utf8"));
  const ofLanguage = (language: string): readonly Block[] => blocks.filter((block) => block.language === language);

  for (const block of ofLanguage("console")) {
    test(`${page}, line ${block.line}: the session prints what it says`, async (context) => {
      const { env, folder } = await homeWithSmolvm(context);
      for (const { command, printed } of sessionOf(block)) {
        const output = await outputOf("bash", ["-c", `{ ${command}\n} 2>&1`], env, folder);
        assert.ok(matches(printed, output), `$ ${command}\n${output}\nexpected:\n${printed.join("\n")}`);
      }
    });
  }

  for (const block of ofLanguage("ts")) {
    test(`${page}, line ${block.line}: the program prints what it says`, async (context) => {
      const { env, folder } = await homeWithSmolvm(context);
      const program = await programOf(context, block);
      const output = await outputOf(process.execPath, [program], env, folder);
      assert.ok(matches(promised(block), output), `${output}\nexpected:\n${promised(block).join("\n")}`);
    });
  }

  for (const block of ofLanguage("json")) {
    test(`${page}, line ${block.line}: the JSON is a registry`, async (context) => {
      const { folder } = await homeWithSmolvm(context);
      await writeFile(join(folder, "registry.json"), block.text);
      assert.ok(Object.keys(await loadRegistry(join(folder, "registry.json"))).length > 0);
    });
  }
}

test("the programs on all pages have the types that the package declares", async (context) => {
  const folder = await folderInPackage(context);
  const files: string[] = [];
  for (const page of PAGES) {
    for (const block of blocksOf(await readFile(join(packageRoot(), page), "utf8"))) {
      if (block.language !== "ts") continue;
      files.push(join(folder, `${page.replaceAll("/", "-")}-${block.line}.mts`));
      await writeFile(files.at(-1) ?? "", block.text);
    }
  }
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"],
    module: ts.ModuleKind.NodeNext,
    types: ["node"],
  };
  const program = ts.createProgram(files, options);
  const wrong = ts.getPreEmitDiagnostics(program).map((found) => {
    const where = found.file === undefined ? "" : `${found.file.fileName}: `;
    return `${where}${ts.flattenDiagnosticMessageText(found.messageText, " ")}`;
  });
  assert.deepEqual(wrong, []);
});

/** A home for machines, and a PATH on which `smolvm` is the one that was compiled. */
async function homeWithSmolvm(context: TestContext) {
  const { env, folder } = await machineHome(context);
  const bin = join(folder, "bin");
  await mkdir(bin);
  await writeFile(join(bin, "smolvm"), `#!/bin/sh\nexec "${process.execPath}" "${BIN}" "$@"\n`);
  await chmod(join(bin, "smolvm"), 0o755);
  return { folder, env: environment({ ...env, PATH: `${bin}:${process.env["PATH"] ?? ""}` }) };
}

/** Inside the package, so that "smolvm" is this package. */
async function folderInPackage(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(packageRoot(), "build", "docs-"));
  context.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function programOf(context: TestContext, { text }: Block): Promise<string> {
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  const path = join(await folderInPackage(context), "program.mjs");
  await writeFile(path, ts.transpileModule(text, { compilerOptions }).outputText);
  return path;
}

/** What stands behind `console.log(…); //` on a line is what that line prints; without it, anything. */
function promised({ text }: Block): readonly string[] {
  return text
    .split("\n")
    .filter((line) => line.includes("console.log("))
    .map((line) => /\/\/ (.*)$/.exec(line)?.[1] ?? "…");
}

async function outputOf(program: string, args: string[], env: NodeJS.ProcessEnv, cwd: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { env, cwd, timeout: 120_000 }, (error, stdout, stderr) => {
      // A command of a session may fail: what it prints is held against the page. A program may not.
      if (error !== null && program !== "bash") reject(new Error(`${stdout}${stderr}`, { cause: error }));
      else resolve(stdout);
    });
  });
}
