import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import {
  chmod,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { buffer } from "node:stream/consumers";

import { GuestFileError, HostError, ValidationError } from "../../../src/errors.js";
import type { SmolVM, VMOptions } from "../../../src/machine/index.js";
import { eventually, leftOvers, type Home } from "../setting.js";

/** Files, ports and the console, on a machine of any architecture. */
export function fileTests(name: string, home: Home, create: (options: VMOptions) => Promise<SmolVM>): void {
  describe(name, () => {
    let vm: SmolVM;
    before(async () => {
      vm = await create({});
    });
    after(async () => {
      await vm.delete();
      assert.deepEqual(await leftOvers(home.folder), []);
    });
    const here = (name: string): string => join(home.folder, name);

    test("what is written is read back, byte for byte, as a string or as bytes", async () => {
      const bytes = randomBytes(300_000);
      await vm.files.writeFile("/tmp/bytes", bytes, { mode: 0o640 });
      assert.ok((await vm.files.readFile("/tmp/bytes")).equals(bytes));
      assert.equal((await vm.files.stat("/tmp/bytes")).mode, 0o640);
      await vm.files.writeFile("/tmp/text", "grün");
      await vm.files.writeFile("/tmp/text", " und blau", { flag: "a" });
      assert.equal(await vm.files.readFile("/tmp/text", "utf8"), "grün und blau");
      assert.equal(await vm.files.readFile("/tmp/text", { encoding: "utf8", start: 5 }), " und blau".slice(0));
      await vm.files.writeFile("/tmp/streamed", Readable.from([Buffer.from("one "), Buffer.from("two")]));
      assert.equal((await buffer(vm.files.createReadStream("/tmp/streamed"))).toString(), "one two");
    });

    test("failures carry the errno name of the guest's kernel and the path", async () => {
      const failures: readonly (readonly [Promise<unknown>, string, string])[] = [
        [vm.files.readFile("/no/such"), "ENOENT", "/no/such"],
        [vm.files.readFile("/tmp"), "EISDIR", "/tmp"],
        [vm.files.readdir("/etc/passwd"), "ENOTDIR", "/etc/passwd"],
        [vm.files.mkdir("/tmp"), "EEXIST", "/tmp"],
        [vm.files.writeFile("/tmp/text", "", { flag: "wx" }), "EEXIST", "/tmp/text"],
        [vm.files.writeFile("/proc/version", "x"), "EACCES", "/proc/version"],
        [vm.files.rm("/no/such"), "ENOENT", "/no/such"],
        [vm.files.stat("/no/such"), "ENOENT", "/no/such"],
        [vm.files.rename("/no/such", "/tmp/x"), "ENOENT", "/no/such"],
      ];
      for (const [call, code, path] of failures) {
        await assert.rejects(call, (error: unknown) => {
          assert.ok(error instanceof GuestFileError, String(error));
          assert.ok(error.code === code || (code === "EACCES" && error.code === "EIO"), `${error.code} for ${path}`);
          assert.equal(error.path, path);
          return true;
        });
      }
      await assert.rejects(vm.files.readFile("relative"), ValidationError);
      await assert.rejects(vm.files.readFile("/nul\0byte"), ValidationError);
    });

    test("folders, links and what is in them", async () => {
      await vm.files.mkdir("/tmp/a/b/c", { recursive: true });
      await vm.files.writeFile("/tmp/a/file", "x");
      await vm.files.symlink("file", "/tmp/a/link");
      assert.deepEqual(await vm.files.readdir("/tmp/a"), ["b", "file", "link"]);
      const entries = await vm.files.readdir("/tmp/a", { withFileTypes: true });
      assert.deepEqual(
        entries.map((entry) => [entry.name, entry.isDirectory(), entry.isFile(), entry.isSymbolicLink()]),
        [
          ["b", true, false, false],
          ["file", false, true, false],
          ["link", false, false, true],
        ],
      );
      assert.equal(await vm.files.readlink("/tmp/a/link"), "file");
      assert.ok((await vm.files.stat("/tmp/a/link")).isFile());
      assert.ok((await vm.files.lstat("/tmp/a/link")).isSymbolicLink());
      await vm.files.rename("/tmp/a/file", "/tmp/a/b/moved");
      assert.deepEqual([await vm.files.exists("/tmp/a/file"), await vm.files.exists("/tmp/a/b/moved")], [false, true]);
      await vm.files.chmod("/tmp/a/b/moved", 0o4711);
      assert.equal((await vm.run("stat -c %a /tmp/a/b/moved")).output, "4711");
      await assert.rejects(vm.files.rm("/tmp/a"), { code: /EISDIR|ENOTEMPTY|EPERM/ });
      await vm.files.rm("/tmp/a", { recursive: true });
      await vm.files.rm("/tmp/a", { recursive: true, force: true });
      assert.equal(await vm.files.exists("/tmp/a"), false);
    });

    test("a folder travels there and back with its modes, times and links", async () => {
      const source = here("tree");
      await mkdir(join(source, "sub", "deep"), { recursive: true });
      await mkdir(join(source, "empty"));
      await writeFile(join(source, "run.sh"), "#!/bin/sh\necho ran\n");
      await chmod(join(source, "run.sh"), 0o755);
      await writeFile(join(source, "sub", "secret"), randomBytes(100_000));
      await chmod(join(source, "sub", "secret"), 0o600);
      await symlink("../run.sh", join(source, "sub", "link"));
      await symlink("/etc/passwd", join(source, "outward"));
      for (let index = 0; index < 120; index++)
        await writeFile(join(source, "sub", "deep", `n${index}`), String(index));
      const time = new Date("2001-02-03T04:05:06.789Z");
      await utimes(join(source, "run.sh"), time, time);
      await chmod(join(source, "sub"), 0o751);
      await utimes(join(source, "sub"), time, time);

      await vm.files.upload(source, "/srv/new/tree");
      assert.equal((await vm.run("/srv/new/tree/sub/link")).output, "ran");
      assert.equal(
        (await vm.run("stat -c '%a %Y' /srv/new/tree/run.sh /srv/new/tree/sub")).output,
        "755 981173106\n751 981173106",
      );
      await vm.files.upload(join(source, "run.sh"), "/srv/new/tree/run.sh"); // over what is there

      const back = here("back");
      await vm.files.download("/srv/new/tree", back);
      assert.deepEqual(
        (await readdir(back, { recursive: true })).sort(),
        (await readdir(source, { recursive: true })).sort(),
      );
      assert.ok((await readFile(join(back, "sub", "secret"))).equals(await readFile(join(source, "sub", "secret"))));
      assert.equal((await stat(join(back, "sub", "secret"))).mode & 0o777, 0o600);
      assert.equal((await stat(join(back, "sub"))).mode & 0o777, 0o751);
      // Node's own calls take times as floating point seconds, so the last microsecond is not theirs to keep.
      assert.ok(Math.abs((await stat(join(back, "run.sh"))).mtimeMs - time.getTime()) < 0.01);
      assert.equal(await readlink(join(back, "sub", "link")), "../run.sh");
      assert.equal(await readlink(join(back, "outward")), "/etc/passwd");
    });

    test("a download never writes through a link that is in its place, and takes over no set-user-id bit", async () => {
      const target = here("target");
      const outside = here("outside");
      await mkdir(target);
      await writeFile(outside, "untouched");
      await symlink(outside, join(target, "file"));
      await vm.run("mkdir -p /srv/evil; echo new > /srv/evil/file; chmod 6777 /srv/evil/file; mkfifo /srv/evil/pipe");
      await vm.files.download("/srv/evil", target);
      assert.equal(await readFile(outside, "utf8"), "untouched");
      assert.equal(await readFile(join(target, "file"), "utf8"), "new\n");
      assert.equal((await lstat(join(target, "file"))).mode & 0o7777, 0o777);
      assert.deepEqual(await readdir(target), ["file"]);

      await symlink(home.folder, join(target, "folder"));
      await vm.run("rm /srv/evil/*; mkdir /srv/evil/folder; echo gotcha > /srv/evil/folder/gotcha");
      await assert.rejects(vm.files.download("/srv/evil", target), HostError);
      assert.equal((await readdir(home.folder)).includes("gotcha"), false);
      await assert.rejects(vm.files.download("/dev/zero", here("zeros")), ValidationError);
      await assert.rejects(vm.files.upload(here("not-there"), "/tmp/x"), /can't be uploaded: ENOENT/);
    });

    test("a large file goes both ways at a bounded use of memory", async (context) => {
      const size = 256 * 1024 * 1024;
      const file = here("large");
      await writeFile(file, randomBytes(1024 * 1024));
      await truncate(file, size);
      const digest = createHash("sha256")
        .update(await readFile(file))
        .digest("hex");
      globalThis.gc?.();
      const before = process.memoryUsage.rss();
      let peak = 0;
      const watch = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss() - before)), 20);
      const up = performance.now();
      await vm.files.upload(file, "/tmp/large");
      const down = performance.now();
      await vm.files.download("/tmp/large", here("large-back"));
      const done = performance.now();
      clearInterval(watch);
      assert.equal(
        createHash("sha256")
          .update(await readFile(here("large-back")))
          .digest("hex"),
        digest,
      );
      const rate = (ms: number): string => `${Math.round(size / 1e3 / ms)} MB/s`;
      context.diagnostic(
        `upload ${rate(down - up)}, download ${rate(done - down)}, peak ${Math.round(peak / 1e6)} MB more resident`,
      );
      assert.ok(peak < 128e6, `${peak} bytes`);
      await vm.files.rm("/tmp/large");
    });

    test("aborting an upload stops it with the caller's reason, and the machine stays usable", async () => {
      const reason = new Error("not today");
      const signal = AbortSignal.timeout(50);
      const file = here("large");
      await assert.rejects(vm.files.upload(file, "/tmp/half", { signal }), (error) => error === signal.reason);
      await assert.rejects(
        vm.files.readFile("/etc/passwd", { signal: AbortSignal.abort(reason) }),
        (error) => error === reason,
      );
      assert.equal((await vm.run("echo usable")).output, "usable");
    });

    test("a port of the guest is reached at a free or a chosen port of 127.0.0.1, until it is taken back", async () => {
      void vm.run("while :; do echo served | nc -l -p 8000; done", { signal: undefined }).catch(() => undefined);
      const free = await vm.exposeLocal(8000);
      await eventually("the guest serves", async () => (await fetchText(free)) === "served\n");
      const other = await vm.exposeLocal(8000);
      assert.notEqual(other, free);
      await vm.unexposeLocal(other);
      assert.equal(await fetchText(other), "refused");
      assert.equal(await vm.exposeLocal(8000, other), other);
      assert.deepEqual(vm.info.ports, [
        { guestPort: 8000, hostPort: free },
        { guestPort: 8000, hostPort: other },
      ]);
      await assert.rejects(vm.exposeLocal(9000, free), { code: "HOST_PORT_IN_USE" });
      await assert.rejects(vm.unexposeLocal(1), ValidationError);
      await assert.rejects(vm.exposeLocal(0), /guestPort is 0/);
      const many = await Promise.all(Array.from({ length: 10 }, () => vm.exposeLocal(8000)));
      assert.equal(new Set(many).size, 10);
    });

    test("the console is there as text and as a stream that ends with the machine, and stays bounded", async () => {
      assert.match(vm.console(), /smolvm: /);
      const stream = vm.consoleStream();
      let streamed = "";
      stream.on("data", (chunk: Buffer) => (streamed += chunk.toString()));
      await vm.run("echo a line of its own > /dev/console");
      await eventually("the line arrives", () => streamed.includes("a line of its own"));
      assert.ok(vm.console().includes("a line of its own"));

      await vm.run(
        "for i in $(seq 20000); do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done > /dev/console",
        {
          timeoutMs: 120_000,
        },
      );
      const { folder } = vm.info;
      await eventually("it is cut", async () => (await stat(join(folder, "console.log"))).size < 1024 * 1024);
      const text = vm.console();
      assert.ok(text.length <= 1024 * 1024);
      assert.ok(text.includes("0123456789"));
      const ended = new Promise((resolve) => stream.once("end", resolve));
      await vm.stop();
      await ended;
    });
  });
}

async function fetchText(port: number): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString()));
  socket.on("error", (error: NodeJS.ErrnoException) => (text = error.code === "ECONNREFUSED" ? "refused" : text));
  await new Promise((resolve) => socket.once("close", resolve));
  return text;
}
