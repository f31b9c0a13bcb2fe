import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  appendFile,
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { inspect, promisify } from "node:util";

import {
  BootError,
  HostError,
  ImageError,
  ValidationError,
  VMAlreadyExistsError,
  VMNotFoundError,
  VMStateError,
} from "../../src/errors.js";
import { findTool } from "../../src/host/find.js";
import { requireTool } from "../../src/host/tools.js";
import { ImageManager } from "../../src/images/index.js";
import { SmolVM, VM, VMConfig, type CreateProgress } from "../../src/machine/index.js";
import { eventually, leftOvers, ownHome, processesIn, TEST_IMAGES, testImage } from "../machine/setting.js";

const home = ownHome();
const image = await testImage();
after(() => home.close());

/** Runs a program of its own, with the library as `SmolVM`, and gives what it prints. */
async function otherProgram(code: string): Promise<string> {
  const library = fileURLToPath(new URL("../../src/machine/index.js", import.meta.url));
  const program = `const { SmolVM } = await import(${JSON.stringify(pathToFileURL(library).href)});\n${code}`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program]);
  return stdout.trim();
}

test("making the object does nothing yet, and says what is wrong with its options", () => {
  const vm = new SmolVM();
  assert.equal(vm.status, "created");
  assert.match(vm.vmId, /^vm-[0-9a-f]{8}$/);
  assert.equal(new VM({ vmId: "mine" }).vmId, "mine");
  assert.throws(() => new SmolVM({ memory: 5 } as object), /SmolVM has no field 'memory'/);
  assert.throws(() => new SmolVM({ memSizeMib: 5 }), /memSizeMib is 5; allowed is a whole number from 128 to 16384/);
  assert.throws(() => vm.getIp(), /not running/);
});

test("a machine keeps its disk from stop to start, and delete removes all of it", async (context) => {
  const config = new VMConfig({
    vmId: "keeper",
    kernelPath: image.kernelPath,
    rootfsPath: image.rootfsPath,
    diskSizeMib: 900,
  });
  await using vm = new SmolVM(config);
  const started = performance.now();
  await vm.start();
  context.diagnostic(`start: ${Math.round(performance.now() - started)} ms`);
  assert.equal(vm.status, "running");
  assert.equal(vm.getIp(), "10.0.2.15");
  assert.equal((await vm.run("hostname")).output, "keeper");
  // Only emulation is better off with one processor. Which it is, is this host's affair.
  assert.equal(vm.info.vcpuCount, vm.info.accelerator === "tcg" ? 1 : 2);
  assert.equal((await vm.run("cat /sys/block/vda/size")).output, String(900 * 2048));
  const kibibytes = Number((await vm.run("df -k / | tail -1 | awk '{ print $2 }'")).output);
  assert.ok(kibibytes > 800 * 1024, `the file system fills the larger disk: ${kibibytes} KiB`);
  const asked = Date.now();
  const clock = Number((await vm.run("date +%s")).output) * 1000;
  assert.ok(clock > asked - 5000 && clock < Date.now() + 5000, `${clock - asked} ms off`);
  await assert.rejects(vm.start(), VMStateError);
  await assert.rejects(new SmolVM(config).start(), VMAlreadyExistsError);
  assert.equal((await vm.run("echo still here")).ok, true);
  await vm.run("echo kept > /var/file; sync");
  await vm.setEnvVars({ LASTING: "yes" });

  const stopping = performance.now();
  await vm.stop();
  context.diagnostic(`stop: ${Math.round(performance.now() - stopping)} ms`);
  await vm.stop();
  assert.equal(vm.status, "stopped");
  assert.equal(vm.info.pid, null);
  await assert.rejects(vm.run("true"), /is not running: it is stopped/);
  assert.deepEqual(processesIn(home.folder), []);

  await vm.start();
  assert.equal((await vm.run("cat /var/file; echo $LASTING")).stdout, "kept\nyes\n");
  await vm.delete();
  await vm.delete();
  assert.deepEqual(await leftOvers(home.folder), []);
  await assert.rejects(vm.start(), /was deleted/);
  await assert.rejects(SmolVM.fromId("keeper"), VMNotFoundError);
});

test("the image itself is untouched by what a machine does to its disk", async () => {
  const before = await stat(image.rootfsPath);
  await using vm = await SmolVM.create();
  await vm.run("dd if=/dev/urandom of=/junk bs=1M count=8 2>/dev/null; rm /bin/ls; sync");
  await vm.delete();
  const now = await stat(image.rootfsPath);
  assert.deepEqual([now.mtimeMs, now.size], [before.mtimeMs, before.size]);
});

test("two programs use one detached machine at once, and a third deletes it", async (context) => {
  const made = performance.now();
  await otherProgram(`await SmolVM.create({ vmId: "shared-one", detached: true });`);
  context.diagnostic(`a program that makes a detached machine: ${Math.round(performance.now() - made)} ms`);
  const listed = await SmolVM.list();
  assert.deepEqual(
    listed.map(({ vmId, status, detached }) => [vmId, status, detached]),
    [["shared-one", "running", true]],
  );

  const vm = await SmolVM.fromId("shared-one");
  await vm.setEnvVars({ SAID_BY: "the first" });
  const console = join(vm.info.folder, "console.log");
  await appendFile(console, Buffer.alloc(2 * 1024 * 1024, "x"));
  await eventually("a console whose starter has gone is cut", async () => (await stat(console)).size < 1024 * 1024);
  const [here, there] = await Promise.all([
    vm.run("for i in $(seq 300); do echo here; done; echo $SAID_BY"),
    otherProgram(`
      const vm = await SmolVM.fromId("shared-one");
      const { stdout } = await vm.run("for i in $(seq 300); do echo there; done; echo $SAID_BY");
      console.log(stdout.trim() + " " + JSON.stringify(await vm.listEnvVars()));`),
  ]);
  assert.equal(here.stdout, `${"here\n".repeat(300)}the first\n`);
  assert.equal(there, `${"there\n".repeat(300)}the first {"SAID_BY":"the first"}`);

  await otherProgram(`const vm = await SmolVM.fromId("shared-one"); await vm.stop();`);
  await eventually("the first program sees it stopped", () => vm.status === "stopped");
  await assert.rejects(vm.run("true"), /not running/);
  await vm.start();
  assert.equal((await vm.run("echo $SAID_BY")).output, "the first");
  await otherProgram(`const vm = await SmolVM.fromId("shared-one"); await vm.delete();`);
  assert.deepEqual(await SmolVM.list(), []);
  await vm.refresh();
  assert.equal(vm.status, "stopped");
  await vm.delete();
});

test("each end of a machine has its own cause, whatever the one before it was", async () => {
  await using vm = await SmolVM.create();
  vm.spawn("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger");
  await eventually("the panic is noted", () => vm.status === "error", 30_000);
  assert.match(vm.info.reason ?? "", /panicked: sysrq triggered crash/);
  await vm.start();
  vm.spawn("poweroff -f");
  await eventually("the power-off is noted", () => vm.status !== "running", 30_000);
  assert.deepEqual([vm.status, vm.info.reason], ["stopped", "the guest powered off"]);
  assert.match(vm.console(), /sysrq triggered crash/, "what the run before it printed is still to be read");
});

test("a QEMU that takes its time to end after its guest's power-off is no failure", async () => {
  const real = findTool("qemu-system-x86_64");
  assert.ok(real);
  const bin = join(home.folder, "bin");
  await mkdir(bin);
  await chmod(home.folder, 0o755); // the machine's own user is to find it
  const slow = `#!/bin/sh\n'${real}' "$@"\nstatus=$?\ncase "$*" in *-uuid*) sleep 2 ;; esac\nexit $status\n`;
  await writeFile(join(bin, "qemu-system-x86_64"), slow, { mode: 0o755 });
  const path = process.env["PATH"];
  process.env["PATH"] = `${bin}:${path ?? ""}`;
  try {
    await using vm = await SmolVM.create({ accel: "tcg" });
    vm.spawn("poweroff -f");
    await eventually("its end is noted", () => vm.status !== "running", 30_000);
    assert.deepEqual([vm.status, vm.info.reason], ["stopped", "the guest powered off"]);
  } finally {
    process.env["PATH"] = path;
  }
});

test("what a program has of a machine is given back when it sees that another one has deleted it", async () => {
  const vm = await SmolVM.create();
  await vm.stop();
  await otherProgram(`await (await SmolVM.fromId(${JSON.stringify(vm.vmId)})).delete();`);
  await vm.refresh();
  assert.deepEqual(await leftOvers(home.folder), []);
  await assert.rejects(vm.start(), /was deleted/);
});

test("an image is kept while a machine of it is there, running or stopped, and can go afterwards", async () => {
  const cacheDir = join(home.folder, "cache");
  const images = new ImageManager({ cacheDir });
  const archive = join(home.folder, "default.smolvm");
  await new ImageManager({ cacheDir: TEST_IMAGES }).exportArchive("default", archive);
  await images.importArchive(archive, { name: "kept" });
  const vm = await SmolVM.create({ image: "kept", cacheDir });
  await assert.rejects(images.remove("kept"), { code: "IMAGE_IN_USE" });
  await rm(join(cacheDir, "kept"), { recursive: true }); // somebody takes the name away all the same
  await images.prune();
  assert.equal((await vm.run("echo running")).output, "running");
  await vm.stop();
  await images.prune();
  await vm.start();
  assert.equal((await vm.run("echo started")).output, "started");
  await vm.delete();
  await images.prune();
  assert.deepEqual(await readdir(join(cacheDir, ".blobs", "sha256")), []);
});

test("shared mode writes through to the file, and extra drives keep what is written", async () => {
  const rootfs = join(home.folder, "own.ext4");
  const drive = join(home.folder, "extra.raw");
  await copyFile(image.rootfsPath, rootfs);
  await writeFile(drive, "");
  await truncate(drive, 1024 * 1024);
  {
    await using vm = await SmolVM.create({
      kernelPath: image.kernelPath,
      rootfsPath: rootfs,
      diskMode: "shared",
      extraDrives: [drive],
    });
    await vm.run("echo through > /var/through; printf written | dd of=/dev/vdb conv=notrunc 2>/dev/null; sync");
  }
  assert.equal((await readFile(drive)).toString("utf8", 0, 7), "written");
  await using again = await SmolVM.create({ kernelPath: image.kernelPath, rootfsPath: rootfs });
  assert.equal((await again.run("cat /var/through")).output, "through");
});

test("what can't be started is refused by name, and nothing is left", async () => {
  const junk = join(home.folder, "junk");
  await writeFile(junk, Buffer.alloc(4096, "no kernel and no file system"));
  const missing = join(home.folder, "missing");
  await assert.rejects(SmolVM.create({ kernelPath: missing, rootfsPath: image.rootfsPath }), (error: unknown) => {
    assert.ok(error instanceof ValidationError);
    assert.match(error.message, /kernelPath is '.*missing', which can't be read: ENOENT/);
    return true;
  });
  for (const [paths, asset] of [
    [{ kernelPath: junk, rootfsPath: image.rootfsPath }, "kernel"],
    [{ kernelPath: image.kernelPath, rootfsPath: junk }, "rootfs"],
  ] as const) {
    await assert.rejects(SmolVM.create(paths), (error: unknown) => {
      assert.ok(error instanceof ImageError);
      assert.equal(error.code, "IMAGE_INVALID");
      assert.ok(error.message.includes(junk));
      assert.equal(error.details["asset"], asset);
      return true;
    });
  }
  await assert.rejects(SmolVM.create({ image: "no-such-image" }), { code: "IMAGE_UNKNOWN" });
  await assert.rejects(SmolVM.create({ diskSizeMib: 1 }), /diskSizeMib is 1; the image's file system needs at least/);
  assert.deepEqual(await leftOvers(home.folder), []);
});

test("the default image is made under its name too, with each step told, and offline only what is here counts", async (context) => {
  const cacheDir = await mkdtemp(join(tmpdir(), "smolvm-fresh-images-"));
  context.after(() => rm(cacheDir, { recursive: true, force: true }));
  const offline = { cacheDir, image: "default", offline: true };
  await assert.rejects(SmolVM.create(offline), { code: "IMAGE_NOT_CACHED" });
  await assert.rejects(SmolVM.create({ cacheDir, offline: true }), { code: "IMAGE_NOT_CACHED" });
  const steps: string[] = [];
  const told = (progress: CreateProgress): void => {
    if ("step" in progress) steps.push(`${progress.image}: ${progress.step}`);
    throw new Error("a display that fails is of no consequence");
  };
  {
    await using vm = await SmolVM.create({ cacheDir, image: "default", onProgress: told });
    assert.equal((await vm.run("echo made")).output, "made");
    assert.equal(inspect(vm), `SmolVM { vmId: '${vm.vmId}', status: 'running' }`);
  }
  assert.ok(steps.length > 2 && steps.every((step) => step.startsWith("default: ")), steps.join("; "));
  {
    await using again = await SmolVM.create(offline);
    assert.equal(again.status, "running");
  }
  const kernel = join(cacheDir, "default", "vmlinux.bin");
  await chmod(kernel, 0o644);
  await appendFile(kernel, "damage");
  await assert.rejects(SmolVM.create({ ...offline, onProgress: told }), {
    code: "IMAGE_NOT_CACHED",
    hint: "Make it while there is a network: smolvm image pull default",
  });
});

test("a guest that does not come up is a BootError with its last words, within the time", async (context) => {
  const started = performance.now();
  await assert.rejects(SmolVM.create({ accel: "tcg", timeoutMs: 250 }), (error: unknown) => {
    assert.ok(error instanceof BootError);
    assert.match(error.message, /did not come up within 250 ms/);
    assert.equal(error.accelerator, "tcg");
    return true;
  });
  const took = performance.now() - started;
  context.diagnostic(`failed after ${Math.round(took)} ms`);
  assert.ok(took < 20_000, `failed after ${took} ms`); // without a time of its own a boot has a minute

  // The magic number of a file system, and nothing else of one.
  const hollow = join(home.folder, "hollow.ext4");
  const content = Buffer.alloc(8 * 1024 * 1024);
  content.writeUInt16LE(0xef53, 1024 + 56);
  await writeFile(hollow, content);
  await assert.rejects(SmolVM.create({ kernelPath: image.kernelPath, rootfsPath: hollow }), (error: unknown) => {
    assert.ok(error instanceof BootError);
    // What it complained of, which is not what came last on its console.
    assert.match(error.message, /smolvm: can't mount \/dev\/vda as ext4/);
    assert.match(error.hint ?? "", /consoleTail/);
    assert.ok(["kernel", "agent"].includes(error.phase), error.phase);
    context.diagnostic(error.message);
    return true;
  });
  assert.deepEqual(await leftOvers(home.folder), []);
});

test("a home that can't hold a machine is a HostError that keeps its cause", async () => {
  const file = join(home.folder, "file");
  await writeFile(file, "");
  process.env["SMOLVM_HOME"] = file;
  try {
    for (const call of [() => SmolVM.create(), () => SmolVM.list()]) {
      await assert.rejects(call(), (error: unknown) => {
        assert.ok(error instanceof HostError);
        assert.equal((error.cause as NodeJS.ErrnoException).code, "ENOTDIR");
        return true;
      });
    }
  } finally {
    process.env["SMOLVM_HOME"] = home.folder;
  }
});

test("aborting a start at any moment rejects with the caller's reason and leaves nothing", async (context) => {
  const moments = [0, 5, 20, 60, 150, 400, 900];
  let tooLate = 0;
  for (const moment of moments) {
    const reason = new Error(`enough after ${moment} ms`);
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), moment);
    const outcome = await SmolVM.create({ accel: "tcg", signal: controller.signal }).catch((error: unknown) => error);
    if (outcome instanceof SmolVM) {
      tooLate++; // on a quick host it may be up by then
      await outcome.delete();
    } else {
      assert.equal(outcome, reason);
    }
    assert.deepEqual(await leftOvers(home.folder), []);
  }
  context.diagnostic(`aborted after ${moments.join(", ")} ms; ${tooLate} too late; left over: 0`);
  assert.ok(tooLate < 3);
});

test("deleting a machine that starts ends the start", async () => {
  const vm = new SmolVM({ accel: "tcg" });
  const outcome = Promise.allSettled([vm.start()]);
  await eventually("its QEMU runs", () => processesIn(home.folder).length > 0);
  await vm.delete();
  const [result] = await outcome;
  assert.ok(result.status === "rejected");
  assert.match(String(result.reason), /was deleted while it started/);
  assert.deepEqual(await leftOvers(home.folder), []);
});

test("an accelerator that does not work is refused with what was seen", async () => {
  // The host's own may work: this QEMU's doesn't.
  const name = `qemu-system-${process.arch === "arm64" ? "aarch64" : "x86_64"}`;
  const [bin, path] = [join(home.folder, "bin-without-kvm"), process.env["PATH"] ?? ""];
  await mkdir(bin);
  const script = `#!/bin/sh\ncase "$*" in *kvm*) echo "qemu: no luck" >&2; exit 1;; esac\nexec ${requireTool(name)} "$@"\n`;
  await writeFile(join(bin, name), script, { mode: 0o755 });
  process.env["PATH"] = `${bin}:${path}`;
  try {
    await assert.rejects(SmolVM.create({ accel: "kvm" }), (error: unknown) => {
      assert.ok(error instanceof HostError);
      assert.equal(error.code, "HOST_ACCELERATOR");
      assert.match(error.message, /no luck|\/dev\/kvm/);
      return true;
    });
  } finally {
    process.env["PATH"] = path;
  }
  await assert.rejects(SmolVM.create({ accel: "hvf" }), /this host's accelerator is kvm/);
  assert.deepEqual(await leftOvers(home.folder), []);
});

test("a machine's folder may lie deeper than a socket's address is long", async () => {
  const deep = join(home.folder, "d".repeat(80), "e".repeat(80));
  await mkdir(deep, { recursive: true });
  process.env["SMOLVM_HOME"] = deep;
  try {
    await using vm = await SmolVM.create();
    assert.equal((await vm.run("echo deep")).output, "deep");
    assert.ok((await vm.exposeLocal(80)) > 0);
    await vm.stop();
  } finally {
    process.env["SMOLVM_HOME"] = home.folder;
  }
});
