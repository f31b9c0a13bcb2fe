// A program that works in a cache that the system makes trouble with, in a mount namespace of its own. Its order comes as JSON in
// the first argument; what it found goes to stdout as JSON.
import { execFileSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";

import { ImageManager, type ImageSourceFields } from "../../../src/images/index.js";
import { ImageStore } from "../../../src/images/store/index.js";

export interface RefusedOrder {
  readonly scenario: keyof typeof SCENARIOS;
  readonly folder: string;
  /** Two versions of an image of the name "hello". */
  readonly registries: readonly [Registry, Registry];
}

type Registry = Readonly<Record<string, ImageSourceFields>>;
export type Findings = Readonly<Record<string, unknown>>;

/** What became of a call: the error's class, code and message, or "ok". */
async function outcome(call: () => Promise<unknown>): Promise<string> {
  try {
    await call();
    return "ok";
  } catch (error) {
    const { name, code, message } = error as NodeJS.ErrnoException;
    return `${name} ${code ?? ""} ${message}`;
  }
}

function mount(...args: readonly string[]): void {
  execFileSync("mount", args, { stdio: "inherit" });
}

const SCENARIOS = { full, readOnly, denied, severalDisks };

/** The disk is full at ever later points of an install, then has room again. */
async function full({ folder, registries }: RefusedOrder): Promise<Findings> {
  const found: Record<string, unknown> = {};
  for (let kib = 48, refused = ""; refused !== "ok"; kib += 24) {
    const disk = join(folder, `disk-${kib}`);
    mkdirSync(disk);
    mount("-t", "tmpfs", "-o", `size=${kib}k`, "tmpfs", disk);
    const cacheDir = join(disk, "images");
    const [first, second] = registries.map((registry) => new ImageManager({ cacheDir, registry }));
    refused = await outcome(async () => first?.ensureImage("hello"));
    const left = readdirSync(disk, { recursive: true }).map(String);
    mount("-o", "remount,size=3m", disk);
    const withRoom = await outcome(async () => first?.ensureImage("hello", { verify: "full" }));
    writeFileSync(join(disk, "filler"), Buffer.alloc(3 * 2 ** 20 - used(disk) - 300 * 1024));
    const replacing = await outcome(async () => second?.ensureImage("hello"));
    const before = await outcome(async () => first?.ensureImage("hello", { offline: true, verify: "full" }));
    rmSync(join(disk, "filler"));
    const replaced = await outcome(async () => second?.ensureImage("hello"));
    fill(join(disk, "filler"));
    const pruned = await outcome(async () => second?.prune());
    fill(join(disk, "more"));
    const removed = await outcome(async () => second?.remove("hello"));
    const visible = left.includes("images/hello");
    found[`${kib} KiB`] = { refused, visible, withRoom, replacing, before, replaced, pruned, removed };
  }
  return found;
}

/** Writes until not one block is left. */
function fill(path: string): void {
  const fd = openSync(path, "w");
  try {
    for (;;) writeSync(fd, Buffer.alloc(4096));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  } finally {
    closeSync(fd);
  }
}

function used(disk: string): number {
  return Number(execFileSync("df", ["--output=used", "-B1", disk], { encoding: "utf8" }).split("\n")[1]);
}

/** The file system is mounted read-only after the image came. */
async function readOnly({ folder, registries }: RefusedOrder): Promise<Findings> {
  mount("-t", "tmpfs", "tmpfs", folder);
  const cacheDir = join(folder, "images");
  const image = await new ImageManager({ cacheDir, registry: registries[0] }).ensureImage("hello");
  mkdirSync(join(cacheDir, "foreign"));
  for (const file of ["vmlinux.bin", "rootfs.ext4"]) {
    writeFileSync(join(cacheDir, "foreign", file), readFileSync(join(cacheDir, "hello", file)));
  }
  mount("-o", "remount,ro", folder);
  return refusals(cacheDir, image.rootfsPath, registries);
}

/** The folder belongs to someone else. */
async function denied({ folder, registries }: RefusedOrder): Promise<Findings> {
  const cacheDir = join(folder, "images");
  const image = await new ImageManager({ cacheDir, registry: registries[0] }).ensureImage("hello");
  mkdirSync(join(cacheDir, "foreign"));
  for (const file of ["vmlinux.bin", "rootfs.ext4"]) {
    writeFileSync(join(cacheDir, "foreign", file), readFileSync(join(cacheDir, "hello", file)));
  }
  execFileSync("chmod", ["-R", "a-w", folder]);
  if (process.geteuid?.() === 0) {
    // Root may do everything: go on as nobody, for whom the folders above must be open, and with every module loaded.
    execFileSync("chmod", ["a+rx", dirname(folder), folder]);
    await outcome(() =>
      new ImageManager({ cacheDir, registry: registries[0] }).ensureImage("hello", { verify: "full" }),
    );
    process.setegid?.(65534);
    process.seteuid?.(65534);
  }
  const found = await refusals(cacheDir, image.rootfsPath, registries);
  process.seteuid?.(process.getuid?.() ?? 0);
  execFileSync("chmod", ["-R", "u+w", folder]);
  return found;
}

async function refusals(
  cacheDir: string,
  rootfsPath: string,
  registries: RefusedOrder["registries"],
): Promise<Findings> {
  const [same, other] = registries.map((registry) => new ImageManager({ cacheDir, registry }));
  const foreignSource = { ...registries[0]["hello"], name: "foreign" } as ImageSourceFields;
  const foreign = new ImageManager({ cacheDir, registry: { foreign: foreignSource } });
  const lease = new ImageStore(cacheDir).lease([rootfsPath], { vmId: "vm-1" });
  return {
    cached: await outcome(async () => same?.ensureImage("hello")),
    full: await outcome(async () => same?.ensureImage("hello", { verify: "full" })),
    lease: await lease.then(({ paths }) => statSync(paths[0] ?? "").ino === statSync(rootfsPath).ino),
    foreign: await outcome(() => foreign.ensureImage("foreign")),
    list: await outcome(async () => same?.list()),
    install: await outcome(async () => other?.ensureImage("hello")),
    remove: await outcome(async () => same?.remove("hello")),
    prune: await outcome(async () => same?.prune()),
  };
}

/** The content, the image's folder and a builder's file are on other file systems than the rest. */
async function severalDisks({ folder, registries }: RefusedOrder): Promise<Findings> {
  const cacheDir = join(folder, "images");
  const far = join(folder, "far");
  for (const path of [join(cacheDir, ".blobs"), join(cacheDir, "hello"), far]) {
    mkdirSync(path, { recursive: true });
    mount("-t", "tmpfs", "tmpfs", path);
  }
  const managers = registries.map((registry) => new ImageManager({ cacheDir, registry }));
  const outcomes: string[] = [];
  for (const manager of [...managers, ...managers]) {
    outcomes.push(await outcome(() => manager.ensureImage("hello")));
    outcomes.push(await outcome(() => manager.ensureImage("hello", { verify: "full", offline: true })));
  }
  const rootfs = statSync(join(cacheDir, "hello", "rootfs.ext4"));
  writeFileSync(join(far, "kernel"), "kernel");
  writeFileSync(join(far, "rootfs"), "rootfs");
  const assets = { kernel: { path: join(far, "kernel") }, rootfs: { path: join(far, "rootfs") } };
  outcomes.push(await outcome(() => new ImageStore(cacheDir).install("built", { assets, origin: { kind: "built" } })));
  return { outcomes, holesKept: rootfs.blocks * 512 < rootfs.size, consumed: readdirSync(far) };
}

const order = JSON.parse(process.argv[2] ?? "") as RefusedOrder;
process.stdout.write(JSON.stringify(await SCENARIOS[order.scenario](order)));
