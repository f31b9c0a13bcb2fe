import assert from "node:assert/strict";
import { test } from "node:test";

import fc from "fast-check";

import { ValidationError } from "../../src/errors.js";
import { BUILTIN_IMAGES, ImageSource, LocalImage, type ImageSourceFields } from "../../src/images/index.js";

const DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const FIELDS: ImageSourceFields = {
  name: "test",
  kernelUrl: "https://example.com/vmlinux.bin",
  rootfsUrl: "https://example.com/rootfs.ext4",
};

test("a source without digests is not verified, and says so by null", () => {
  const source = new ImageSource(FIELDS);
  assert.deepEqual(Object.fromEntries(Object.entries(source)), {
    ...FIELDS,
    kernelSha256: null,
    rootfsSha256: null,
    initrdUrl: null,
    initrdSha256: null,
    bootArgs: null,
    mirrors: [],
  });
});

test("digests of any case are kept in lower case", () => {
  const source = new ImageSource({ ...FIELDS, kernelSha256: DIGEST.toUpperCase(), rootfsSha256: DIGEST });
  assert.equal(source.kernelSha256, DIGEST);
  assert.equal(source.rootfsSha256, DIGEST);
});

test("sources and local images are frozen", () => {
  const source = new ImageSource({ ...FIELDS, mirrors: ["https://mirror.example"] });
  assert.throws(() => Object.assign(source, { name: "other" }), TypeError);
  assert.throws(() => (source.mirrors as string[]).push("https://other.example"), TypeError);
  const image = new LocalImage({ name: "a", kernelPath: "/k", rootfsPath: "/r" });
  assert.throws(() => Object.assign(image, { kernelPath: "/other" }), TypeError);
  assert.deepEqual(Object.fromEntries(Object.entries(image)), {
    name: "a",
    kernelPath: "/k",
    rootfsPath: "/r",
    initrdPath: null,
    bootArgs: null,
  });
});

test("a wrong field is a ValidationError that names the field, its value and what is allowed", () => {
  const cases: [field: string, value: unknown, message: RegExp][] = [
    [
      "kernelUrl",
      "ftp://example.com/k",
      /kernelUrl is 'ftp:\/\/example\.com\/k'; allowed is an http:, https: or file: address/,
    ],
    ["kernelUrl", "not a url", /kernelUrl is 'not a url'/],
    ["kernelUrl", undefined, /kernelUrl is missing/],
    ["rootfsUrl", 7, /rootfsUrl is 7/],
    ["rootfsUrl", "file://elsewhere/rootfs.ext4", /file: address without a host/],
    ["rootfsUrl", "http://example.com/a\nb", /rootfsUrl/],
    ["initrdUrl", "data:,x", /initrdUrl is 'data:,x'/],
    ["kernelSha256", DIGEST.slice(1), /kernelSha256 is '.*'; allowed is a SHA-256 of 64 hex digits, or null/],
    ["kernelSha256", `${DIGEST}0`, /kernelSha256/],
    ["rootfsSha256", DIGEST.replace("e", "g"), /rootfsSha256/],
    ["rootfsSha256", 1n, /rootfsSha256 is 1n/],
    ["initrdSha256", DIGEST, /initrdSha256 is .*; allowed is null where there is no initrdUrl/],
    ["bootArgs", "a\nb", /bootArgs/],
    ["mirrors", ["ftp://x"], /mirrors/],
  ];
  for (const [field, value, message] of cases) {
    assert.throws(
      () => new ImageSource({ ...FIELDS, [field]: value }),
      (error) => error instanceof ValidationError && message.test(error.message),
      field,
    );
  }
});

test("an unknown field is refused, so that a misspelt digest can't switch verification off", () => {
  assert.throws(
    () => new ImageSource({ ...FIELDS, kernelSHA256: DIGEST } as ImageSourceFields),
    /ImageSource has no field 'kernelSHA256'; allowed are name, kernelUrl/,
  );
  assert.throws(
    () => new LocalImage({ name: "a", kernelPath: "/k", rootfsPath: "/r", x: 1 } as never),
    ValidationError,
  );
  assert.throws(() => new LocalImage({ name: "a", kernelPath: "k", rootfsPath: "/r" }), /kernelPath is 'k'/);
});

test("names that could leave the cache, or that people can't see, are refused", () => {
  const named = (name: unknown) => () => new ImageSource({ ...FIELDS, name: name as string });
  for (const empty of ["", "  ", "\n"]) assert.throws(named(empty), { message: "image name cannot be empty" });
  for (const bad of [
    "../x",
    "/etc",
    "a/b",
    "a\\b",
    ".",
    "..",
    ".hidden",
    "lost+found",
    "a\0b",
    "a\u202eb",
    "x".repeat(129),
    " a",
    "\ud800",
  ]) {
    assert.throws(named(bad), ValidationError, JSON.stringify(bad));
  }
  assert.throws(named(null), /image name must be a string, not null/);
  for (const good of ["hello", "quickstart-x86_64", "ubuntu:22.04", "Ubuntu Jammy", "x".repeat(128), "größe"])
    named(good)();
});

test("whatever a fuzzer offers as a source is either taken as it is or a ValidationError", () => {
  const value = fc.oneof(fc.anything(), fc.webUrl(), fc.constant(DIGEST), fc.string());
  const fields = fc.record(
    { name: value, kernelUrl: value, rootfsUrl: value, kernelSha256: value, mirrors: value, bootArgs: value },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(fields, (candidate) => {
      try {
        const source = new ImageSource(candidate as unknown as ImageSourceFields);
        return source.name === candidate.name && /^(https?|file):/i.test(source.kernelUrl);
      } catch (error) {
        return error instanceof ValidationError;
      }
    }),
    { numRuns: 500 },
  );
});

test("the built-in images are the two of the Firecracker quick start", () => {
  assert.deepEqual(Object.keys(BUILTIN_IMAGES), ["hello", "quickstart-x86_64"]);
  assert.ok(Object.isFrozen(BUILTIN_IMAGES));
  const base = "https://s3.amazonaws.com/spec.ccfc.min/img";
  assert.equal(BUILTIN_IMAGES.hello.kernelUrl, `${base}/hello/kernel/hello-vmlinux.bin`);
  assert.equal(BUILTIN_IMAGES.hello.rootfsUrl, `${base}/hello/fsfiles/hello-rootfs.ext4`);
  const quickstart = BUILTIN_IMAGES["quickstart-x86_64"];
  assert.equal(quickstart.kernelUrl, `${base}/quickstart_guide/x86_64/kernels/vmlinux.bin`);
  assert.equal(quickstart.rootfsUrl, `${base}/quickstart_guide/x86_64/rootfs/bionic.rootfs.ext4`);
  for (const source of Object.values(BUILTIN_IMAGES)) assert.equal(source.kernelSha256 ?? source.rootfsSha256, null);
});
