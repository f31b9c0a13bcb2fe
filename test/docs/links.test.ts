import assert from "node:assert/strict";
import { readdir, readFile, stat } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";

import { packageRoot } from "../../src/host/package.js";

const PAGES = ["README.md", ...(await readdir(join(packageRoot(), "docs"))).map((file) => join("docs", file))];

async function textOf(page: string): Promise<string> {
  return readFile(join(packageRoot(), page), "utf8");
}

/** The targets of `[text](target)` that are not on the network. */
async function linksOf(page: string): Promise<readonly string[]> {
  const targets = [...(await textOf(page)).matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1] ?? "");
  return targets.filter((target) => !/^[a-z]+:/.test(target));
}

/** As GitHub makes the anchor of a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");
}

test("every link leads to a file and a heading that are there", async () => {
  for (const page of PAGES) {
    for (const link of await linksOf(page)) {
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? page : normalize(join(dirname(page), path));
      await assert.doesNotReject(stat(join(packageRoot(), target)), `${page}: ${link}`);
      if (anchor === undefined) continue;
      const headings = [...(await textOf(target)).matchAll(/^#+ (.*)$/gm)].map((match) => anchorOf(match[1] ?? ""));
      assert.ok(headings.includes(anchor), `${page}: ${link}`);
    }
  }
});

test("every link leads to a file that is in the package as well", async () => {
  const manifest = JSON.parse(await textOf("package.json")) as { files: readonly string[] };
  for (const page of PAGES) {
    for (const link of await linksOf(page)) {
      const target = normalize(join(dirname(page), link.split("#")[0] ?? ""));
      const shipped = manifest.files.some((entry) => target === entry || target.startsWith(`${entry}/`));
      assert.ok(shipped || link.startsWith("#"), `${page}: ${link}`);
    }
  }
});

test("every file of the repository that a page names is there", async () => {
  for (const page of PAGES) {
    for (const [, path = ""] of (await textOf(page)).matchAll(/`((?:test|src|bench)\/[\w./-]+)`/g)) {
      await assert.doesNotReject(stat(join(packageRoot(), path)), `${page} names '${path}'`);
    }
  }
});
