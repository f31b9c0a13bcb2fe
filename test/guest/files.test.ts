import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { finished, pipeline } from "node:stream/promises";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { GuestFileError, ValidationError } from "../../src/errors.js";
import type { GuestConnection } from "../../src/guest/index.js";
import { collect, startAgent, type TestAgent } from "./agent.js";

let agent: TestAgent;
let guest: GuestConnection;
let folder: string;

before(async () => {
  agent = startAgent();
  guest = await agent.connect();
  folder = await fs.mkdtemp(join(tmpdir(), "smolvm-guest-files-"));
});

after(async () => {
  await agent[Symbol.asyncDispose]();
  await fs.rm(folder, { recursive: true, force: true });
});

const at = (name: string): string => join(folder, name);

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, "it did not come to be within 30 s");
    await sleep(20);
  }
}

/** Whether the agent, or a process of its own, has a file open. */
async function hasOpen(path: string): Promise<boolean> {
  const pid = agent.process.pid ?? 0;
  const children = await fs.readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
  for (const owner of [String(pid), ...children.trim().split(" ")]) {
    const descriptors = `/proc/${owner}/fd`;
    for (const name of await fs.readdir(descriptors).catch(() => [])) {
      if ((await fs.readlink(join(descriptors, name)).catch(() => "")) === path) return true;
    }
  }
  return false;
}

async function rejectsWith(code: string, attempt: Promise<unknown>): Promise<void> {
  await assert.rejects(attempt, (error) => error instanceof GuestFileError && error.code === code, code);
}

test("contents of every size between nothing and many frames go in and come back byte-exact", async () => {
  for (const size of [0, 1, 4095, 65_536, 131_071, 131_072, 131_073, 262_145, 7_000_001]) {
    const content = randomBytes(size);
    await guest.files.writeFile(at("sized"), content);
    assert.ok((await fs.readFile(at("sized"))).equals(content), `written, ${size}`);
    assert.ok((await guest.files.readFile(at("sized"))).equals(content), `read, ${size}`);
  }
});

test("a part of a file is read from a start and for a length", async () => {
  await fs.writeFile(at("part"), Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251)));
  const whole = await fs.readFile(at("part"));
  for (const [start, length] of [
    [0, 5],
    [299_990, 100],
    [100, 200_000],
    [400_000, 5],
    [10, 0],
  ] as const) {
    const part = await guest.files.readFile(at("part"), { start, length });
    assert.ok(part.equals(whole.subarray(start, start + length)), `${start}+${length}`);
  }
});

test("streams carry what does not fit in memory windows, in both directions", async () => {
  const content = randomBytes(20_000_000);
  const stream = guest.files.createWriteStream(at("streamed"));
  stream.end(content);
  await finished(stream);
  assert.ok((await collect(guest.files.createReadStream(at("streamed")))).equals(content));
  await pipeline(guest.files.createReadStream(at("streamed")), guest.files.createWriteStream(at("copied")));
  assert.ok((await fs.readFile(at("copied"))).equals(content));
});

test("files whose size the kernel doesn't know are read to their end", async () => {
  assert.equal((await guest.files.readFile("/proc/self/stat")).length > 50, true);
  const version = await fs.readFile("/proc/version");
  assert.ok((await guest.files.readFile("/proc/version")).equals(version));
});

test("failures carry the errno name, the path and the operation", async () => {
  await fs.writeFile(at("plain"), "x");
  await rejectsWith("ENOENT", guest.files.readFile(at("none")));
  await rejectsWith("EISDIR", guest.files.readFile(folder));
  await rejectsWith("ENOTDIR", guest.files.readFile(at("plain/below")));
  await rejectsWith("ENOENT", guest.files.writeFile(at("none/below"), "x"));
  await rejectsWith("EISDIR", guest.files.writeFile(folder, "x"));
  await rejectsWith("EEXIST", guest.files.writeFile(at("plain"), "x", { flag: "exclusive" }));
  await rejectsWith("EEXIST", guest.files.mkdir(at("plain")));
  await rejectsWith("ENOTDIR", guest.files.readdir(at("plain")));
  await rejectsWith("EINVAL", guest.files.readlink(at("plain")));
  await rejectsWith("ENAMETOOLONG", guest.files.stat(at("n".repeat(300))));
  await rejectsWith("ENOENT", guest.files.rename(at("none"), at("other")));
  await rejectsWith("ENXIO", guest.files.writeFile("/dev/tty", "x"));
  await assert.rejects(collect(guest.files.createReadStream(at("none"))), { code: "ENOENT", path: at("none") });
  const failing = guest.files.createWriteStream(at("none/below"));
  failing.end("x");
  await assert.rejects(finished(failing), { code: "ENOENT" });
  assert.throws(() => guest.files.createReadStream("relative"), ValidationError);
  await assert.rejects(guest.files.stat("a\0b"), ValidationError);
});

test("a full disk is ENOSPC, also in the middle of a stream", async () => {
  await rejectsWith("ENOSPC", guest.files.writeFile("/dev/full", "x"));
  await rejectsWith("ENOSPC", guest.files.writeFile("/dev/full", Buffer.alloc(1_000_000)));
});

test("append adds, and modes are those asked for", async () => {
  await guest.files.writeFile(at("appended"), "one", { mode: 0o600 });
  await guest.files.writeFile(at("appended"), " two", { flag: "append" });
  await guest.files.writeFile(at("appended"), Buffer.alloc(200_000, 51), { flag: "append" });
  const content = await fs.readFile(at("appended"));
  assert.equal(content.subarray(0, 7).toString(), "one two");
  assert.equal(content.length, 200_007);
  assert.equal((await fs.stat(at("appended"))).mode & 0o7777, 0o600);
});

test("an atomic write keeps the old content until the end, the old mode after it, and leaves nothing when given up", async () => {
  await fs.writeFile(at("atomic"), "old");
  await fs.chmod(at("atomic"), 0o640);
  await fs.symlink("atomic", at("link-to-atomic"));
  const stream = guest.files.createWriteStream(at("link-to-atomic"), { atomic: true });
  await new Promise((resolve) => stream.write(Buffer.alloc(300_000), resolve));
  assert.equal(await fs.readFile(at("atomic"), "utf8"), "old");
  const before = await fs.readdir(folder);
  stream.destroy();
  // The agent takes the half-written one away once it has seen that nobody goes on with it.
  await until(async () => (await fs.readdir(folder)).length < before.length);
  assert.deepEqual(
    (await fs.readdir(folder)).filter((name) => name.includes("smolvm")),
    [],
  );
  assert.equal(await fs.readFile(at("atomic"), "utf8"), "old");
  await guest.files.writeFile(at("link-to-atomic"), "new", { atomic: true });
  assert.equal(await fs.readFile(at("atomic"), "utf8"), "new");
  assert.equal((await fs.stat(at("atomic"))).mode & 0o7777, 0o640);
  assert.ok((await fs.lstat(at("link-to-atomic"))).isSymbolicLink());
});

test("names, kinds and numbers of a folder's entries, also of very many", async () => {
  await fs.mkdir(at("many"));
  const names = Array.from({ length: 9000 }, (_, i) => `${i}-${"é".repeat(i % 60)}`);
  for (let i = 0; i < names.length; i += 500) {
    await Promise.all(names.slice(i, i + 500).map((name) => fs.writeFile(join(at("many"), name), "")));
  }
  const entries = await guest.files.readdir(at("many"));
  assert.deepEqual(entries.map((entry) => entry.name).sort(), names.sort());
  await fs.mkdir(at("kinds"));
  await fs.mkdir(at("kinds/d"));
  await fs.symlink("d", at("kinds/l"));
  await fs.writeFile(at("kinds/f"), "");
  const kinds = Object.fromEntries((await guest.files.readdir(at("kinds"))).map((entry) => [entry.name, entry.kind]));
  assert.deepEqual(kinds, { d: "directory", l: "symlink", f: "file" });
  assert.deepEqual(await guest.files.readdir(at("kinds/d")), []);
  assert.equal((await guest.files.stat("/dev/null")).kind, "char");
});

test("stat gives what the host sees, through links and of links", async () => {
  await fs.writeFile(at("seen"), "12345");
  await fs.symlink("seen", at("seen-link"));
  const [stat, real] = [await guest.files.stat(at("seen-link")), await fs.stat(at("seen"))];
  assert.deepEqual([stat.kind, stat.size, stat.nlink, stat.ino], ["file", 5, 1, real.ino]);
  assert.deepEqual([stat.uid, stat.gid, stat.mode], [real.uid, real.gid, real.mode & 0o7777]);
  assert.ok(Math.abs(stat.mtimeMs - real.mtimeMs) < 0.01);
  assert.equal((await guest.files.lstat(at("seen-link"))).kind, "symlink");
  assert.equal(await guest.files.exists(at("seen")), true);
  assert.equal(await guest.files.exists(at("unseen")), false);
});

test("times, modes, links, names and lengths are changed as fs/promises would", async () => {
  await fs.writeFile(at("changed"), "content");
  await guest.files.utimes(at("changed"), 1_000_000_000_123.5, -1500.25);
  const stat = await guest.files.stat(at("changed"));
  assert.deepEqual([stat.atimeMs, stat.mtimeMs], [1_000_000_000_123.5, -1500.25]);
  await guest.files.chmod(at("changed"), 0o4711);
  assert.equal((await fs.stat(at("changed"))).mode & 0o7777, 0o4711);
  await guest.files.truncate(at("changed"), 4);
  await guest.files.link(at("changed"), at("second-name"));
  assert.equal(await fs.readFile(at("second-name"), "utf8"), "cont");
  await guest.files.rename(at("second-name"), at("third-name"));
  await guest.files.symlink("third-name", at("symbolic"));
  assert.equal(await guest.files.readlink(at("symbolic")), "third-name");
  await guest.files.lutimes(at("symbolic"), 5000, 6000);
  assert.equal((await fs.lstat(at("symbolic"))).mtimeMs, 6000);
  if (process.getuid?.() === 0) {
    await guest.files.chown(at("symbolic"), 12, 34);
    await guest.files.lchown(at("symbolic"), 56, 78);
    assert.deepEqual([(await fs.stat(at("third-name"))).uid, (await fs.lstat(at("symbolic"))).gid], [12, 78]);
  }
});

test("folders are made and removed, recursively where asked", async () => {
  await rejectsWith("ENOENT", guest.files.mkdir(at("deep/er")));
  await guest.files.mkdir(at("deep/er/est"), { recursive: true });
  await guest.files.mkdir(at("deep/er/est"), { recursive: true });
  await fs.writeFile(at("deep/er/est/file"), "");
  await fs.symlink("/", at("deep/to-root"));
  await rejectsWith("EISDIR", guest.files.rm(at("deep")));
  await rejectsWith("ENOENT", guest.files.rm(at("absent")));
  await guest.files.rm(at("absent"), { force: true });
  await guest.files.rm(at("deep"), { recursive: true });
  assert.equal(await guest.files.exists(at("deep")), false);
  assert.equal(await guest.files.exists("/etc"), true, "a link was followed");
  await fs.writeFile(at("file-below"), "");
  await rejectsWith("EEXIST", guest.files.mkdir(at("file-below"), { recursive: true }));
});

test("an aborted transfer rejects with the signal's reason and ends the guest's side", async () => {
  const abort = new AbortController();
  const reason = new Error("enough");
  const reading = guest.files.readFile("/dev/zero", { signal: abort.signal });
  setTimeout(() => abort.abort(reason), 50);
  await assert.rejects(reading, (error) => error === reason);
  await assert.rejects(guest.files.stat("/", { signal: AbortSignal.abort(reason) }), (error) => error === reason);
  const writing = guest.files.createWriteStream(at("aborted"), { signal: AbortSignal.timeout(50), atomic: true });
  writing.write("x");
  await assert.rejects(finished(writing), { name: "TimeoutError" });
  assert.equal(await guest.files.exists(at("aborted")), false);
});

test("a stream that is given up in the middle ends the guest's reader", async () => {
  for await (const piece of guest.files.createReadStream("/dev/zero") as AsyncIterable<Buffer>) {
    assert.ok(piece.length > 0);
    assert.ok(await hasOpen("/dev/zero"), "it is still being read");
    break;
  }
  await until(async () => !(await hasOpen("/dev/zero")));
});
