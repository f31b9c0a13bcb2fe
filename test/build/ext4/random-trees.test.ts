import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import fc from "fast-check";

import type { Attributes, Ext4Writer } from "../../../src/build/ext4/index.js";
import { ImageError } from "../../../src/errors.js";
import { requireTool } from "../../../src/host/tools.js";
import { check, MEBIBYTE, writeImage } from "./image.js";

/** One call to the writer, and what the same call does to a plain model of a tree. */
type Step =
  | { readonly do: "directory"; readonly path: readonly string[]; readonly attributes: Attributes }
  | { readonly do: "fifo"; readonly path: readonly string[]; readonly attributes: Attributes }
  | { readonly do: "remove"; readonly path: readonly string[]; readonly attributes: Attributes }
  | {
      readonly do: "file";
      readonly path: readonly string[];
      readonly attributes: Attributes;
      readonly chunks: readonly Buffer[];
    }
  | {
      readonly do: "symlink";
      readonly path: readonly string[];
      readonly attributes: Attributes;
      readonly target: string;
    }
  | { readonly do: "link"; readonly path: readonly string[]; readonly existing: readonly string[] };

interface Node {
  readonly type: "directory" | "file" | "symlink" | "fifo";
  attributes: Attributes;
  readonly content: Buffer;
  readonly children: Map<string, Node>;
  implied: boolean;
}

const TYPE_BITS = { directory: 0o040000, file: 0o100000, symlink: 0o120000, fifo: 0o010000 } as const;

// Few names, so that steps meet.
const path = fc.array(fc.constantFrom("a", "b", "c", "ü", "x y", "-", "n".repeat(255)), { minLength: 1, maxLength: 4 });
const attributes = fc.record({
  mode: fc.integer({ min: 0, max: 0o7777 }),
  uid: fc.oneof(fc.integer({ min: 0, max: 70_000 }), fc.constant(2 ** 31 - 1)),
  gid: fc.integer({ min: 0, max: 70_000 }),
  mtime: fc.integer({ min: -(2 ** 31), max: 2 ** 33 }),
});
const chunk = fc.oneof(
  fc.uint8Array({ maxLength: 6000 }).map((bytes) => Buffer.from(bytes)),
  fc
    .record({ byte: fc.constantFrom(0, 0, 7), size: fc.constantFrom(1, 4095, 4096, 8192, 100_000) })
    .map(({ byte, size }) => Buffer.alloc(size, byte)),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constantFrom("directory", "directory", "fifo", "remove"), path, attributes }),
  fc.record({ do: fc.constant("file"), path, attributes, chunks: fc.array(chunk, { maxLength: 8 }) }),
  fc.record({
    do: fc.constant("symlink"),
    path,
    attributes,
    target: fc.integer({ min: 1, max: 200 }).map((length) => "t".repeat(length)),
  }),
  fc.record({ do: fc.constant("link"), path, existing: path }),
);

test("any tree that the writer takes passes e2fsck and reads back as it was given", async () => {
  let taken = 0;
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 80, size: "max" }), fc.boolean(), async (steps, journal) => {
      const folder = mkdtempSync(join(tmpdir(), "smolvm-ext4-"));
      try {
        const image = join(folder, "image");
        const model = directory({ mode: 0o755 });
        model.children.set("lost+found", { ...directory({ mode: 0o700 }), implied: true });
        const fill = async (writer: Ext4Writer): Promise<void> => {
          for (const each of steps) {
            const expected = applyToModel(model, each);
            const actual = await applyToWriter(writer, each);
            assert.equal(actual, expected, JSON.stringify(each));
            if (actual) taken += 1;
            else refused += 1;
          }
        };
        await writeImage(image, fill, { freeBytes: MEBIBYTE, freeInodes: 10, journal });
        const { status, output } = check({ path: image });
        assert.equal(status, 0, output);
        assert.deepEqual(readBack(image, folder), describe(model));
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    }),
    { numRuns: 60 },
  );
  console.log(`${taken} steps taken, ${refused} refused alike by writer and model`);
});

async function applyToWriter(writer: Ext4Writer, each: Step): Promise<boolean> {
  const at = each.path.join("/");
  try {
    if (each.do === "directory") writer.directory(at, each.attributes);
    else if (each.do === "fifo") writer.node(at, "fifo", each.attributes);
    else if (each.do === "remove") return writer.remove(at) || true;
    else if (each.do === "file") await writer.file(at, each.attributes, each.chunks);
    else if (each.do === "symlink") await writer.symlink(at, each.target, each.attributes);
    else writer.link(at, each.existing.join("/"));
    return true;
  } catch (error) {
    assert.ok(error instanceof ImageError, String(error));
    return false;
  }
}

function directory(attributes: Attributes): Node {
  return { type: "directory", attributes, content: Buffer.alloc(0), children: new Map(), implied: false };
}

function find(root: Node, names: readonly string[]): Node | undefined {
  let node: Node | undefined = root;
  for (const name of names) node = node?.children.get(name);
  return node;
}

function applyToModel(root: Node, each: Step): boolean {
  const folders = each.path.slice(0, -1);
  const name = each.path.at(-1) ?? "";
  if (each.do === "remove") {
    find(root, folders)?.children.delete(name);
    return true;
  }
  if (each.do === "directory") {
    const existing = find(root, each.path);
    if (existing?.implied === true) {
      existing.attributes = each.attributes;
      existing.implied = false;
      return true;
    }
  }
  const linked = each.do === "link" ? find(root, each.existing) : undefined;
  if (each.do === "link" && (linked === undefined || linked.type === "directory")) return false;
  let folder = root;
  for (const part of folders) {
    const next = folder.children.get(part) ?? { ...directory({ mode: 0o755 }), implied: true };
    if (next.type !== "directory") return false;
    folder.children.set(part, next);
    folder = next;
  }
  if (folder.children.has(name)) return false;
  folder.children.set(name, linked ?? newNode(each));
  return true;
}

function newNode(each: Step): Node {
  if (each.do === "link") throw new Error("a link is no node of its own");
  if (each.do === "directory" || each.do === "remove") return directory(each.attributes);
  const content =
    each.do === "file" ? Buffer.concat(each.chunks) : Buffer.from(each.do === "symlink" ? each.target : "");
  return { ...directory(each.attributes), type: each.do, content };
}

/** By path: type and mode, owner, time, link count and content. */
type Description = Readonly<Record<string, readonly (string | number)[]>>;

function describe(root: Node): Description {
  const found: Record<string, readonly (string | number)[]> = {};
  const names = new Map<Node, number>();
  const visit = (node: Node, visitor: (node: Node, at: string) => void, at = ""): void => {
    visitor(node, at);
    for (const [name, child] of node.children) visit(child, visitor, `${at}/${name}`);
  };
  visit(root, (node) => void names.set(node, (names.get(node) ?? 0) + 1));
  visit(root, (node, at) => {
    const { mode, uid = 0, gid = 0, mtime = 0 } = node.attributes;
    const folders = [...node.children.values()].filter((child) => child.type === "directory").length;
    const links = node.type === "directory" ? 2 + folders : (names.get(node) ?? 0);
    found[at] = [TYPE_BITS[node.type] | mode, uid, gid, mtime, links, node.content.toString("base64")];
  });
  return found;
}

/** The same, read by debugfs by inode number, as names may be anything. */
function readBack(image: string, folder: string): Description {
  const found: Record<string, readonly (string | number)[]> = {};
  let level = [{ at: "", inode: 2 }];
  while (level.length > 0) {
    const outputs = requests(
      image,
      level.flatMap(({ inode }) => [`stat <${inode}>`, `ls -p <${inode}>`]),
      folder,
    );
    const below: typeof level = [];
    const contents: { at: string; inode: number; entry: (string | number)[] }[] = [];
    for (const [index, { at, inode }] of level.entries()) {
      const stat = outputs[index * 2] ?? "";
      const number = (pattern: RegExp, base = 10): number => parseInt(pattern.exec(stat)?.[1] ?? "", base);
      const type = /Type: (\w+)/.exec(stat)?.[1] ?? "";
      const bits = { directory: 0o040000, regular: 0o100000, symlink: 0o120000, FIFO: 0o010000 }[type] ?? 0;
      const [, low = "", extra = ""] = /\bmtime: 0x([0-9a-f]{8}):([0-9a-f]{8})/.exec(stat) ?? [];
      const mtime = (parseInt(low, 16) | 0) + (parseInt(extra, 16) & 3) * 2 ** 32;
      const entry = [
        bits | number(/Mode: +(\d+)/, 8),
        number(/User: +(\d+)/),
        number(/Group: +(\d+)/),
        mtime,
        number(/Links: (\d+)/),
        Buffer.from(/Fast link dest: "(.*)"/.exec(stat)?.[1] ?? "").toString("base64"),
      ];
      found[at] = entry;
      if (type === "regular" || (type === "symlink" && entry[5] === "")) contents.push({ at, inode, entry });
      if (type !== "directory") continue;
      for (const line of (outputs[index * 2 + 1] ?? "").split("\n")) {
        const [, child, , , , name = ""] = line.split("/");
        if (child !== undefined && !["", ".", ".."].includes(name))
          below.push({ at: `${at}/${name}`, inode: Number(child) });
      }
    }
    requests(
      image,
      contents.map(({ inode }, index) => `dump <${inode}> ${join(folder, `content${index}`)}`),
      folder,
    );
    contents.forEach(
      ({ entry }, index) => (entry[5] = readFileSync(join(folder, `content${index}`)).toString("base64")),
    );
    level = below;
  }
  return found;
}

/** What debugfs prints for each request. */
function requests(image: string, list: readonly string[], folder: string): string[] {
  const script = join(folder, "requests");
  writeFileSync(script, list.map((request) => `${request}\n`).join(""));
  const { stdout } = spawnSync(requireTool("debugfs"), ["-f", script, image], {
    encoding: "utf8",
    maxBuffer: 64 * MEBIBYTE,
  });
  return stdout.split(/^debugfs: .*\n/m).slice(1);
}
