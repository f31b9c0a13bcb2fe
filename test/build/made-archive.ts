import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { requireTool } from "../../src/host/tools.js";

export interface MadePackage {
  readonly name: string;
  readonly version?: string;
  readonly depends?: string;
  readonly files?: Readonly<Record<string, Buffer>>;
}

/** Builds real Debian packages and a package archive of them in a folder. Gives the line for a list of sources. */
export function makeArchive(folder: string, architecture: string, packages: readonly MadePackage[]): string {
  const archive = join(folder, "archive");
  mkdirSync(archive);
  const index = packages.map(({ name, version = "1.0", depends, files = {} }) => {
    const tree = join(folder, "trees", name);
    const control = [
      `Package: ${name}`,
      `Version: ${version}`,
      `Architecture: ${architecture}`,
      "Maintainer: Nobody <nobody@example.org>",
      ...(depends === undefined ? [] : [`Depends: ${depends}`]),
      `Description: ${name}`,
    ];
    write(join(tree, "DEBIAN", "control"), Buffer.from(`${control.join("\n")}\n`));
    for (const [path, content] of Object.entries(files)) write(join(tree, path), content);
    const file = `${name}_${version}_${architecture}.deb`;
    execFileSync(requireTool("dpkg-deb"), ["--root-owner-group", "-Zxz", "--build", tree, join(archive, file)], {
      stdio: "ignore",
    });
    const data = readFileSync(join(archive, file));
    const digest = createHash("sha256").update(data).digest("hex");
    return [...control, `Filename: ./${file}`, `Size: ${data.length}`, `SHA256: ${digest}`].join("\n");
  });
  writeFileSync(join(archive, "Packages"), `${index.join("\n\n")}\n`);
  return `deb [trusted=yes] file:${archive} ./\n`;
}

function write(path: string, content: Buffer): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
