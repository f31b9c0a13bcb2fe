import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { pathToFileURL } from "node:url";

import fc from "fast-check";

import { ImageError, SmolVMError, ValidationError } from "../../src/errors.js";
import { packageRoot } from "../../src/host/package.js";
import { loadRegistry } from "../../src/images/index.js";
import { Origin, scratch } from "./setting.js";

const DIGEST = "a".repeat(64);
const SNAKE = {
  kernel_url: "https://example.com/k",
  kernel_sha256: DIGEST,
  rootfs_url: "https://example.com/r",
  initrd_url: "https://example.com/i",
  boot_args: "quiet",
};
const CAMEL = {
  name: "camel",
  kernelUrl: "https://example.com/k",
  rootfsUrl: "https://example.com/r",
  rootfsSha256: DIGEST,
};

function write(folder: string, value: unknown): string {
  const path = join(folder, "registry.json");
  writeFileSync(path, typeof value === "string" ? value : JSON.stringify(value));
  return path;
}

test("a registry file may be written in the spec's snake_case and in camelCase", async (t) => {
  const path = write(scratch(t), { $schema: "https://example.com/schema", snake: SNAKE, camel: CAMEL });
  const { snake, camel } = await loadRegistry(path);
  assert.equal(snake?.name, "snake");
  assert.equal(snake.kernelSha256, DIGEST);
  assert.equal(snake.initrdUrl, "https://example.com/i");
  assert.equal(snake.bootArgs, "quiet");
  assert.equal(camel?.rootfsSha256, DIGEST);
  assert.deepEqual(await loadRegistry(pathToFileURL(path).href), { snake, camel });
});

test("a registry's mirrors are those of its images, unless an image has its own", async (t) => {
  const path = write(scratch(t), {
    mirrors: ["https://mirror.example/{host}"],
    images: { snake: SNAKE, camel: { ...CAMEL, mirrors: ["https://own.example"] } },
  });
  const { snake, camel } = await loadRegistry(path);
  assert.deepEqual(snake?.mirrors, ["https://mirror.example/{host}"]);
  assert.deepEqual(camel?.mirrors, ["https://own.example"]);
});

test("a registry is read from an address", async (t) => {
  const origin = await Origin.start(t);
  origin.files.set("/registry.json", Buffer.from(JSON.stringify({ snake: SNAKE })));
  assert.deepEqual(Object.keys(await loadRegistry(origin.url("/registry.json"))), ["snake"]);
  await assert.rejects(loadRegistry(origin.url("/absent.json")), { code: "IMAGE_DOWNLOAD_FAILED" });
});

test("a registry that is too large is refused from a file and from an address", async (t) => {
  const huge = Buffer.alloc(5 * 1024 * 1024, " ");
  const origin = await Origin.start(t);
  origin.files.set("/registry.json", huge);
  for (const from of [write(scratch(t), huge.toString()), origin.url("/registry.json")]) {
    await assert.rejects(loadRegistry(from), { code: "IMAGE_INVALID", message: /larger than 4 MiB/ });
  }
});

test("a pipe, a device or a folder is no registry, and is not waited for", async (t) => {
  const pipe = join(scratch(t), "pipe");
  execFileSync("mkfifo", [pipe]);
  let waited = false;
  const timer = setTimeout(() => {
    waited = true;
    closeSync(openSync(pipe, "r+")); // whoever waits for a writer waits no more
  }, 15_000);
  for (const path of [pipe, pathToFileURL(pipe).href, "/dev/zero", scratch(t)]) {
    await assert.rejects(loadRegistry(path), { code: "IMAGE_INVALID", message: /it is not a regular file/ });
  }
  clearTimeout(timer);
  assert.ok(!waited);
});

test("a file whose size says nothing is read all the same", async () => {
  await assert.rejects(loadRegistry("/proc/self/status"), { code: "IMAGE_INVALID", message: /is not JSON/ });
});

/** A server that deals with the requests one after the other as it is told; the last way is that of all that follow. */
async function server(t: TestContext, ...ways: ((response: ServerResponse) => void)[]) {
  const requests: string[] = [];
  const made = createServer((request, response) => {
    const way = ways[Math.min(requests.push(request.url ?? ""), ways.length) - 1];
    way?.(response);
  });
  made.listen(0, "127.0.0.1");
  await once(made, "listening");
  t.after(() => {
    made.closeAllConnections();
    made.close();
  });
  return { url: `http://127.0.0.1:${(made.address() as AddressInfo).port}/r.json`, requests };
}

const BODY = JSON.stringify({ snake: SNAKE });
const whole = (response: ServerResponse): unknown =>
  response.writeHead(200, { "content-length": BODY.length }).end(BODY);

test("a registry is asked for again where that can help, and its redirects are followed", async (t) => {
  const { url, requests } = await server(
    t,
    (response) => response.writeHead(503).end(),
    (response) => {
      response.writeHead(200, { "content-length": BODY.length }).write(BODY.slice(0, 20));
      setImmediate(() => response.destroy());
    },
    (response) => response.writeHead(302, { location: "/elsewhere" }).end(),
    whole,
  );
  assert.deepEqual(Object.keys(await loadRegistry(url)), ["snake"]);
  assert.deepEqual(requests, ["/r.json", "/r.json", "/r.json", "/elsewhere"]);
});

test("a registry whose size is not told is cut off where it is too large", async (t) => {
  const { url } = await server(t, (response) => {
    response.writeHead(200);
    const more = (): void => {
      while (!response.destroyed && response.write(Buffer.alloc(256 * 1024, " ")));
      if (!response.destroyed) response.once("drain", more);
    };
    more();
  });
  await assert.rejects(loadRegistry(url), { code: "IMAGE_INVALID", message: /larger than 4 MiB/ });
});

test("a signal ends the fetching of a registry with its own reason", async (t) => {
  const reason = new Error("enough");
  const waits: ((response: ServerResponse) => void)[] = [
    () => undefined,
    (response) => response.writeHead(200, { "content-length": BODY.length }).write(BODY.slice(0, 20)),
    (response) => response.writeHead(503, { "retry-after": "50" }).end(),
  ];
  for (const wait of waits) {
    const controller = new AbortController();
    const { url } = await server(t, (response) => {
      wait(response);
      setTimeout(() => controller.abort(reason), 100);
    });
    const giveUp = setTimeout(() => assert.fail("it goes on"), 10_000);
    await assert.rejects(loadRegistry(url, { signal: controller.signal }), (error) => error === reason);
    clearTimeout(giveUp);
    await assert.rejects(loadRegistry(url, { signal: controller.signal }), (error) => error === reason);
  }
  await assert.rejects(loadRegistry("r.json", { signal: {} as AbortSignal }), ValidationError);
});

test("a registry that is fetched needs no room on a disk", async (t) => {
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = "/absent";
  t.after(() => {
    if (before === undefined) Reflect.deleteProperty(process.env, "TMPDIR");
    else process.env["TMPDIR"] = before;
  });
  const { url } = await server(t, whole);
  assert.deepEqual(Object.keys(await loadRegistry(url)), ["snake"]);
});

test("what is no path and no address is refused by its type", async () => {
  for (const value of [undefined, null, 5, {}, Buffer.from("x"), ""]) {
    await assert.rejects(loadRegistry(value as string), ValidationError);
  }
  for (const value of ["a\0b", "file://elsewhere/x", "file:%00"]) {
    await assert.rejects(loadRegistry(value), { code: "IMAGE_INVALID" });
  }
});

test("what is wrong in a registry is an error that names it", async (t) => {
  const folder = scratch(t);
  const cases: [value: unknown, message: RegExp][] = [
    [{ a: { ...SNAKE, kernel_sha265: DIGEST } }, /image 'a' .* has unknown fields: 'kernel_sha265'; allowed are/],
    [{ images: { a: SNAKE }, mirors: [] }, /unknown fields: 'mirors'/],
    [{ a: { ...SNAKE, kernelUrl: "https://example.com/k" } }, /has kernelUrl twice, in both spellings/],
    [{ a: CAMEL }, /image 'a' .* calls itself 'camel'/],
    [{ a: { ...SNAKE, kernel_sha256: "abc" } }, /image 'a' .*kernelSha256 is 'abc'/],
    [{ "../a": SNAKE }, /must not contain a slash/],
    [{ a: [] }, /image 'a' .* must be a JSON object/],
    [[], /must be a JSON object/],
    ["null", /must be a JSON object/],
  ];
  for (const [value, message] of cases) {
    await assert.rejects(
      loadRegistry(write(folder, value)),
      (error) => error instanceof ValidationError && message.test(error.message),
      JSON.stringify(value),
    );
  }
  await assert.rejects(
    loadRegistry(write(folder, "{")),
    (error) => error instanceof ImageError && error.code === "IMAGE_INVALID",
  );
  await assert.rejects(loadRegistry(join(folder, "absent.json")), {
    code: "IMAGE_INVALID",
    message: /there is no such file/,
  });
  await assert.rejects(loadRegistry(folder), { code: "IMAGE_INVALID" });
  await assert.rejects(loadRegistry(""), ValidationError);
});

test("whatever JSON a fuzzer writes is a registry or a typed error", async (t) => {
  const folder = scratch(t);
  const image = fc.dictionary(
    fc.constantFrom(...Object.keys(SNAKE), "kernelUrl", "x"),
    fc.oneof(fc.string(), fc.webUrl(), fc.jsonValue()),
  );
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.jsonValue(), fc.dictionary(fc.string(), image)), async (value) => {
      try {
        await loadRegistry(write(folder, value));
        return true;
      } catch (error) {
        return error instanceof SmolVMError;
      }
    }),
    { numRuns: 300 },
  );
});

test("the published schema knows exactly the keys that are read", async (t) => {
  const schema = JSON.parse(readFileSync(join(packageRoot(), "schema", "registry.schema.json"), "utf8")) as {
    $defs: { image: { properties: Record<string, unknown> }; registry: { properties: Record<string, unknown> } };
  };
  const error: unknown = await loadRegistry(write(scratch(t), { a: { nonsense: 1 } })).catch(
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof ValidationError);
  assert.deepEqual(
    Object.keys(schema.$defs.image.properties).sort(),
    [...(error.details["allowed"] as string[])].sort(),
  );
  assert.deepEqual(Object.keys(schema.$defs.registry.properties).sort(), ["$schema", "images", "mirrors"]);
});
