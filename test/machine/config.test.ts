import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, before, test } from "node:test";

import fc from "fast-check";

import { ValidationError } from "../../src/errors.js";
import { VMConfig, type VMConfigFields } from "../../src/machine/config.js";
import { readOptions } from "../../src/machine/source.js";

let folder: string;
let paths: { kernelPath: string; rootfsPath: string };
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "smolvm-config-"));
  paths = { kernelPath: join(folder, "kernel"), rootfsPath: join(folder, "rootfs") };
  for (const path of Object.values(paths)) await writeFile(path, "x");
});
after(() => rm(folder, { recursive: true, force: true }));

const config = (fields: object = {}): VMConfig => new VMConfig({ ...paths, ...fields });

test("defaults are filled in, and nothing can be changed afterwards", () => {
  const made = config();
  assert.match(made.vmId, /^vm-[0-9a-f]{8}$/);
  assert.notEqual(config().vmId, made.vmId);
  assert.deepEqual(Object.fromEntries(Object.entries(made)), {
    vmId: made.vmId,
    ...paths,
    initrdPath: null,
    bootArgs: null,
    vcpuCount: 2,
    memSizeMib: 512,
    diskMode: "isolated",
    diskSizeMib: null,
    extraDrives: [],
    envVars: {},
    network: "restricted",
    backend: "auto",
    accel: "auto",
  });
  assert.equal(config({ accel: "tcg" }).vcpuCount, 1);
  for (const frozen of [made, made.envVars, made.extraDrives]) assert.ok(Object.isFrozen(frozen));
  assert.throws(() => ((made as { memSizeMib: number }).memSizeMib = 1), TypeError);
});

test("a wrong field is refused by its name, its value and what is allowed", () => {
  const wrong: readonly (readonly [object, RegExp])[] = [
    [{ memory: 512 }, /VMConfig has no field 'memory'\. Allowed are vmId, kernelPath/],
    [{ vcpuCount: 0 }, /vcpuCount is 0; allowed is a whole number from 1 to 32/],
    [{ vcpuCount: 33 }, /vcpuCount is 33/],
    [{ vcpuCount: 1.5 }, /vcpuCount is 1\.5/],
    [{ vcpuCount: "2" }, /vcpuCount is '2'/],
    [{ memSizeMib: 127 }, /memSizeMib is 127; allowed is a whole number from 128 to 16384/],
    [{ memSizeMib: 16385 }, /memSizeMib/],
    [{ memSizeMib: Number.NaN }, /memSizeMib is NaN/],
    [{ diskMode: "private" }, /diskMode is 'private'; allowed is "isolated", "shared"/],
    [{ diskSizeMib: -1 }, /diskSizeMib is -1/],
    [{ diskSizeMib: 100, diskMode: "shared" }, /diskSizeMib is 100; allowed is nothing with diskMode "shared"/],
    [{ network: "host" }, /network is 'host'; allowed is "restricted", "open", "none"/],
    [{ backend: "firecracker" }, /backend/],
    [{ accel: "whpx" }, /accel is 'whpx'/],
    [{ bootArgs: "a\nb" }, /bootArgs/],
    [{ bootArgs: "x".repeat(2000) }, /bootArgs/],
    [{ bootArgs: "quiet smolvm.owner=0" }, /bootArgs/],
    [{ envVars: { "1X": "y" } }, /envVars has '1X'/],
    [{ envVars: { X: 1 } }, /envVars\.X is 1/],
    [{ envVars: { X: "a\0" } }, /envVars\.X/],
    [{ extraDrives: "disk" }, /extraDrives/],
    [
      { extraDrives: [{ path: "/dev/null" }] },
      /extraDrives\[0\]\.path is '\/dev\/null'; allowed is the path of a regular file/,
    ],
    [{ extraDrives: [{ file: "x" }] }, /extraDrives\[0\] has no field 'file'/],
    [{ kernelPath: "" }, /kernelPath is ''/],
    [{ kernelPath: undefined }, /kernelPath is missing/],
    [{ rootfsPath: "/no/such/file" }, /rootfsPath is '\/no\/such\/file', which can't be read: ENOENT/],
    [{ initrdPath: folder }, /initrdPath is '.*'; allowed is the path of a regular file/],
  ];
  for (const [fields, message] of wrong) {
    assert.throws(
      () => config(fields),
      (error) => error instanceof ValidationError && message.test(error.message),
      JSON.stringify(fields),
    );
  }
  assert.throws(() => new VMConfig(null as unknown as VMConfigFields), ValidationError);
});

test("a vmId is exactly what the pattern says", () => {
  const pattern = /^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$/;
  for (const good of ["a", "0", "a-b", "a_b", "x".repeat(64)]) assert.equal(config({ vmId: good }).vmId, good);
  for (const bad of ["", "-a", "a-", "A", "../x", "a/b", "x".repeat(65), "a.b", "a\n", null, 5]) {
    assert.throws(() => config({ vmId: bad }), /vmId is/, String(bad));
  }
  fc.assert(
    fc.property(fc.string({ maxLength: 70 }), (vmId) => {
      if (pattern.test(vmId)) assert.equal(config({ vmId }).vmId, vmId);
      else assert.throws(() => config({ vmId }), ValidationError);
    }),
    { numRuns: 500 },
  );
});

test("paths become absolute, and drives are writable unless they are said not to be", () => {
  const drive = relative(process.cwd(), paths.rootfsPath);
  assert.deepEqual(config({ extraDrives: [drive, { path: drive, readOnly: true }] }).extraDrives, [
    { path: paths.rootfsPath, readOnly: false },
    { path: paths.rootfsPath, readOnly: true },
  ]);
});

test("the options of a machine are checked before anything is fetched", () => {
  assert.throws(() => readOptions({ memSizeMib: 1 }), /memSizeMib is 1/);
  assert.throws(() => readOptions({ image: "x", kernelPath: paths.kernelPath }), /exclude each other/);
  assert.throws(
    () => readOptions({ image: 5 } as object),
    /image is 5; allowed is the name of an image, or a LocalImage/,
  );
  assert.throws(() => readOptions({ detached: "yes" } as object), /detached is 'yes'/);
  assert.throws(() => readOptions({ kernelPath: paths.kernelPath }), /rootfsPath is missing/);
  assert.throws(() => readOptions({ unknown: 1 } as object), /SmolVM has no field 'unknown'/);
  assert.equal(readOptions({ vmId: "mine", detached: true }).detached, true);
});
