import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import ts from "typescript";

import { loadRegistry } from "../../src/images/index.js";
import { packageRoot } from "../../src/host/package.js";
import { machineHome } from "../cli/machines.js";
import { BIN, environment, smolvm } from "../cli/smolvm.js";
import { type Block, blocksOf, matches, sessionOf } from "../docs/blocks.js";

const PAGES = ["README.md", ...(await filesIn("docs", ".md"))];
const MACHINE = "page-of-docs";
const EXAMPLES = await filesIn("examples", ".mjs");

/* The blocks of a page are executed from top to bottom in one folder, as a reader would: what one makes, the next has. */
for (const page of PAGES) {
  const blocks = (await blocksOn(page)).filter(({ language }) => language !== "text" && language !== "c");
  if (blocks.length === 0) continue;
  test(`${page} does what it says`, async (context) => {
    const place = await readersPlace(context, blocks);
    for (const block of blocks) {
      await context.test(`${page}, line ${block.line}: ${block.language}`, () => execute(block, context, place));
    }
  });
}

test("the programs on all pages and the examples have the types that the package declares", async (context) => {
  const folder = await folderInPackage(context);
  const files = EXAMPLES.map((example) => join(packageRoot(), example));
  for (const page of PAGES) {
    for (const block of await blocksOn(page)) {
      if (block.language !== "ts" && block.language !== "js") continue;
      const file = join(folder, `${page.replaceAll("/", "-")}-${block.line}.m${block.language}`);
      await writeFile(file, sourceOf(block));
      files.push(file);
    }
  }
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    allowJs: true,
    checkJs: true,
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

interface Place {
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
}

async function execute(block: Block, context: TestContext, { env, folder }: Place): Promise<void> {
  switch (block.language) {
    case "console":
      for (const { command, printed } of sessionOf(block)) {
        // It may fail: what it prints is held against the page.
        const output = await outputOf("bash", ["-c", `(${command}\n) 2>&1 || true`], env, folder);
        assert.ok(matches(printed, output), `$ ${command}\n${output}\nexpected:\n${printed.join("\n")}`);
      }
      break;
    case "ts":
    case "js": {
      const output = await outputOf(process.execPath, [await programOf(context, block)], env, folder);
      assert.ok(matches(promised(block), output), `${output}\nexpected:\n${promised(block).join("\n")}`);
      break;
    }
    case "json": {
      const file = join(await mkdtemp(join(folder, "registry-")), "registry.json");
      await writeFile(file, block.text);
      assert.ok(Object.keys(await loadRegistry(file)).length > 0);
      break;
    }
    case "sh":
      // "run" is for scripts that can run here; of the others, such as `npm start`, at least the syntax is right.
      await outputOf(
        "bash",
        [...(block.flags.includes("run") ? ["-euo", "pipefail"] : ["-n"]), "-c", block.text],
        env,
        folder,
      );
      break;
    default:
      assert.fail(`nothing is known of '${block.language}'`);
  }
}

/** A home for machines, and a PATH on which `smolvm` is the one that was compiled. */
async function readersPlace(context: TestContext, blocks: readonly Block[]): Promise<Place> {
  const { env, folder } = await machineHome(context);
  const bin = join(folder, "bin");
  await mkdir(bin);
  await writeFile(join(bin, "smolvm"), `#!/bin/sh\nexec "${process.execPath}" "${BIN}" "$@"\n`);
  await chmod(join(bin, "smolvm"), 0o755);
  if (blocks.some(({ flags }) => flags.includes("vm"))) {
    const made = await smolvm(["create", "--name", MACHINE], { env });
    assert.equal(made.status, 0, made.stderr);
  }
  const place = environment({ ...env, PATH: `${bin}:${process.env["PATH"] ?? ""}` });
  const usesApt = blocks.some(
    ({ language, flags, text }) => language === "sh" && flags.includes("run") && /\bapt-/.test(text),
  );
  return { folder, env: usesApt ? { ...place, APT_CONFIG: await freshLists(folder) } : place };
}

/** The host's own lists of packages may be missing or behind the archive. */
async function freshLists(folder: string): Promise<string> {
  const [lists, cache] = [join(folder, "apt", "lists"), join(folder, "apt", "cache")];
  for (const made of [lists, join(cache, "archives")]) await mkdir(join(made, "partial"), { recursive: true });
  const config = join(folder, "apt", "apt.conf");
  await writeFile(config, `Dir::State::lists "${lists}";\nDir::Cache "${cache}";\n`);
  await outputOf("apt-get", ["-q", "update"], { ...process.env, APT_CONFIG: config }, folder);
  return config;
}

/** Inside the package, so that "smolvm" is this package. */
async function folderInPackage(context: TestContext): Promise<string> {
  const folder = await mkdtemp(join(packageRoot(), "build", "docs-"));
  context.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A block with the flag "vm" is a piece of a program that has a machine already: one for all of a page. */
function sourceOf({ flags, text }: Block): string {
  const machine = `import { SmolVM as Machine } from "smolvm"; const vm = await Machine.fromId("${MACHINE}");\n`;
  return flags.includes("vm") ? machine + text : text;
}

async function programOf(context: TestContext, block: Block): Promise<string> {
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  const path = join(await folderInPackage(context), "program.mjs");
  // What is called JavaScript has to run as it stands.
  const source = sourceOf(block);
  await writeFile(path, block.language === "js" ? source : ts.transpileModule(source, { compilerOptions }).outputText);
  return path;
}

/** What stands behind `console.log(…); //` on a line is what that line prints; without it, anything. */
function promised({ text }: Block): readonly string[] {
  return text
    .split("\n")
    .filter((line) => line.includes("console.log("))
    .map((line) => /\/\/ (.*)$/.exec(line)?.[1] ?? "…");
}

async function blocksOn(page: string): Promise<readonly Block[]> {
  return blocksOf(await readFile(join(packageRoot(), page), "utf8"));
}

async function filesIn(folder: string, ending: string): Promise<string[]> {
  const names = await readdir(join(packageRoot(), folder));
  return names.filter((name) => name.endsWith(ending)).map((name) => join(folder, name));
}

async function outputOf(program: string, args: string[], env: NodeJS.ProcessEnv, cwd: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { env, cwd, timeout: 120_000 }, (error, stdout, stderr) => {
      if (error !== null) reject(new Error(`${stdout}${stderr}`, { cause: error }));
      else resolve(stdout);
    });
  });
}
