import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, type TestContext } from "node:test";

import { ArchiveProxy } from "./archive-proxy.js";

/* For tests that make the real image of real packages, and so need the archive that this host is configured for. */

/** Lets the tests of a file fetch each package once. To be called at its top. */
export function shareDownloads(): void {
  const proxy = new ArchiveProxy();
  before(async () => {
    process.env["http_proxy"] ??= await proxy.listen();
  });
  after(() => proxy.close());
}

export function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-default-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Sets variables of the environment for as long as the test runs. */
export function setEnvironment(context: TestContext, values: Readonly<Record<string, string>>): void {
  const before = Object.keys(values).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, values);
  context.after(() => {
    for (const [name, value] of before) {
      if (value === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = value;
    }
  });
}

/** Lets apt know these sources and no others. */
export function useSources(context: TestContext, folder: string, list: string): void {
  const sources = join(folder, "sources.list");
  const configuration = join(folder, "apt.conf");
  writeFileSync(sources, list);
  writeFileSync(configuration, `Dir::Etc::sourcelist "${sources}"; Dir::Etc::sourceparts "/dev/null";\n`);
  setEnvironment(context, { APT_CONFIG: configuration, no_proxy: "127.0.0.1" });
}

/** What a build must not leave behind: anything beside its own mark in the store's folder of temporary files. */
export function leftovers(cacheDir: string): string[] {
  const temporary = join(cacheDir, ".tmp");
  if (!existsSync(temporary)) return [];
  return readdirSync(temporary, { recursive: true, encoding: "utf8" }).filter(
    (path) => path.includes("/") && !path.endsWith("owner.json"),
  );
}

export const own = process.arch === "arm64" ? "arm64" : "x86_64";
export const other = own === "arm64" ? "x86_64" : "arm64";
