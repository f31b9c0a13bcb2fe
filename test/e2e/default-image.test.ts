import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";

import { defaultImage } from "../../src/build/index.js";
import { packageRoot } from "../../src/host/package.js";
import { copySparse } from "../../src/images/store/index.js";
import { check, debugfs, type Fill, MEBIBYTE, writeImage } from "../build/ext4/image.js";
import { type Arch, bootBare } from "./bare-guest.js";

/** Made once and used by every test that boots a machine. */
const IMAGES = join(packageRoot(), "build", "test-images");

function temporaryFolder(context: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "smolvm-e2e-"));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The image's own BusyBox, read out of its root filesystem. */
function busyboxOf(rootfs: string, folder: string): Buffer {
  const copy = join(folder, "busybox");
  debugfs({ path: rootfs }, `dump /usr/bin/busybox ${copy}`);
  return readFileSync(copy);
}

for (const arch of ["x86_64", "arm64"] as const satisfies readonly Arch[]) {
  test(`the default image for ${arch} boots to a shell in its own root filesystem`, async (context) => {
    const folder = temporaryFolder(context);
    const image = await defaultImage({ arch, cacheDir: IMAGES });
    const disk = join(folder, "disk");
    await copySparse(image.rootfsPath, disk);
    const output = await bootBare({
      arch,
      image,
      busybox: busyboxOf(image.rootfsPath, folder),
      folder,
      drives: [disk],
      script: `
        mount -t ext4 /dev/vda /mnt && mount -t proc proc /mnt/proc && mount -t devtmpfs dev /mnt/dev
        ls /sys/bus/virtio/drivers | sort | tr '\\n' ' '; echo
        lsmod | grep -c '^\\(overlay\\|virtio_net\\)'
        chroot /mnt /bin/sh -c '
          . /etc/os-release; echo "$ID on $(uname -m)"
          id; su smolvm -s /bin/sh -c "id; touch /tmp/mine; touch /mine 2>&1; ls -ld /tmp /home/smolvm"
          for name in sh env awk sed grep tar vi wget nc ps top find sort sha256sum gzip; do command -v $name > /dev/null || echo "no $name"; done
          df -m / | tail -1; hostname -F /etc/hostname; hostname; dd if=/dev/zero of=/zeros bs=1M count=100 2>&1 | head -1; rm /zeros'
        umount /mnt/proc /mnt/dev /mnt; echo END`,
    });
    const seen = (pattern: RegExp): void => assert.match(output, pattern);
    seen(new RegExp(`^smolvm on ${arch === "arm64" ? "aarch64" : "x86_64"}$`, "m"));
    seen(/^uid=0\(root\) gid=0\(root\)/m);
    seen(/^uid=1000\(smolvm\) gid=1000\(smolvm\)/m);
    seen(/touch: \/mine: Permission denied/);
    seen(/^drwxrwxrwt .* \/tmp$/m);
    seen(/^drwxr-xr-x .* smolvm +smolvm .* \/home\/smolvm$/m);
    seen(/\bvirtio_blk\b.*\bvirtio_console\b.*\bvirtio_net\b.*\bvirtio_rng\b/);
    seen(/^2$/m); // overlay and virtio_net among the modules
    seen(/^smolvm$/m);
    seen(/^100\+0 records in$/m);
    seen(/^END$/m);
    assert.doesNotMatch(output, /FAILED|^no |EXT4-fs (error|warning)/m);
    const free = Number(/^\S+ +\d+ +\d+ +(\d+) +\d+% \/$/m.exec(output)?.[1]);
    assert.ok(free >= 480, `${free} MiB free`);
    const { status, output: verdict } = check({ path: disk });
    assert.equal(status, 0, verdict);
  });
}

test("the kernel reads what the ext4 writer writes, and writes on where it ended", async (context) => {
  const folder = temporaryFolder(context);
  const image = await defaultImage({ cacheDir: IMAGES, arch: "x86_64" });
  const { fill, digests, stats } = everyKind();
  const disk = join(folder, "disk");
  await writeImage(disk, fill, { freeBytes: 32 * MEBIBYTE, freeInodes: 4000 });
  const output = await bootBare({
    arch: "x86_64",
    image,
    busybox: busyboxOf(image.rootfsPath, folder),
    folder,
    drives: [disk],
    files: { digests: Buffer.from(digests), stats: Buffer.from(stats) },
    script: `
      mount -t ext4 /dev/vda /mnt || echo FAILED to mount
      cd /mnt
      sha256sum -c /digests > /sums; echo "sound: $(grep -c ': OK$' /sums), damaged: $(grep -vc ': OK$' /sums)"
      find . -exec stat -c '%a %u %g %h %s %Y %t:%T %F %N' {} + | grep -v -e lost+found -e ' ./many$' | sort > /found
      sort /stats > /expected; diff /expected /found && echo the same
      stat -c 'many: %a %h %Y' many
      rm -rf many && mkdir many && for i in $(seq 1 500); do echo $i > many/entry-$i; done
      dd if=/dev/zero of=more bs=1M count=20 2> /dev/null; sync
      ls many | wc -l; cd /; umount /mnt; dmesg | grep -i 'ext4.*\\(error\\|warn\\|corrupt\\)'; echo END`,
  });
  assert.match(output, /^sound: 10005, damaged: 0$/m, output.slice(-3000));
  assert.match(output, /^the same$/m, output.slice(-3000));
  assert.match(output, /^many: 755 2 2000$/m);
  assert.match(output, /^500$/m);
  assert.match(output, /^END$/m);
  assert.doesNotMatch(output, /FAILED|ext4.*(error|warn|corrupt)/i);
  const { status, output: verdict } = check({ path: disk });
  assert.equal(status, 0, verdict);
});

interface Expected {
  readonly fill: Fill;
  /** For `sha256sum -c`. */
  readonly digests: string;
  /** Lines of `stat -c '%a %u %g %h %s %Y %t:%T %F %N'`. */
  readonly stats: string;
}

/** A tree with one of everything, and what the guest must find of it. */
function everyKind(): Expected {
  const digests: string[] = [];
  const stats: string[] = [];
  const contents = new Map<string, Buffer>([
    ["./plain", Buffer.from("plain\n")],
    ["./empty", Buffer.alloc(0)],
    ["./holes", Buffer.concat([Buffer.alloc(MEBIBYTE), Buffer.from("x"), Buffer.alloc(70_000), Buffer.alloc(5000, 9)])],
    [
      "./many runs",
      Buffer.concat(Array.from({ length: 1500 }, () => Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096)]))),
    ],
    ["./large", Buffer.alloc(9 * MEBIBYTE + 13, "smolvm")],
  ]);
  for (let index = 0; index < 10_000; index++) {
    contents.set(`./many/entry-${index}-${"ü".repeat(index % 100)}`, Buffer.from(`${index}\n`));
  }
  const fill: Fill = async (writer) => {
    writer.directory("/", { mode: 0o751, uid: 3, gid: 4, mtime: 1000 });
    writer.directory("/many", { mode: 0o755, mtime: 2000 });
    for (const [path, content] of contents) {
      await writer.file(path, { mode: 0o640, uid: 70_000, gid: 2, mtime: 1_700_000_000 }, content);
    }
    writer.link("/linked", "/plain");
    await writer.symlink("/short", "plain", { mode: 0o777, mtime: 3 });
    await writer.symlink("/long", "l".repeat(400), { mode: 0o777, mtime: 3 });
    writer.node("/device", "block", { mode: 0o660, mtime: 3 }, { major: 259, minor: 70_000 });
    writer.node("/fifo", "fifo", { mode: 0o622, mtime: 2 ** 31 + 5 });
  };
  for (const [path, content] of contents) {
    digests.push(`${createHash("sha256").update(content).digest("hex")}  ${path}\n`);
    const kind = content.length === 0 ? "regular empty file" : "regular file";
    stats.push(`640 70000 2 ${path === "./plain" ? 2 : 1} ${content.length} 1700000000 0:0 ${kind} ${path}\n`);
  }
  stats.push(
    "751 3 4 4 4096 1000 0:0 directory .\n",
    "640 70000 2 2 6 1700000000 0:0 regular file ./linked\n",
    "777 0 0 1 5 3 0:0 symbolic link './short' -> 'plain'\n",
    `777 0 0 1 400 3 0:0 symbolic link './long' -> '${"l".repeat(400)}'\n`,
    "660 0 0 1 0 3 103:11170 block special file ./device\n",
    `622 0 0 1 0 ${2 ** 31 + 5} 0:0 fifo ./fifo\n`,
  );
  return { fill, digests: digests.join(""), stats: stats.join("") };
}
