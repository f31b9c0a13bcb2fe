import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { suite, test } from "node:test";
import { pathToFileURL } from "node:url";

import type { ImageError } from "../../../src/errors.js";
import { mirrorsOf } from "../../../src/images/fetch/mirrors.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { TestProxy } from "../../fixtures/servers/proxy.js";
import { TestServer, type Handler } from "../../fixtures/servers/server.js";
import { attempt, failureOf } from "./attempt.js";
import {
  certificate,
  Folder,
  policyFor,
  SAMPLE,
  SAMPLE_DIGEST,
  sampleBytes,
  serveSample,
  sha256,
  TRANSPORTS,
  withEnvironment,
} from "./setting.js";

for (const transport of TRANSPORTS) {
  const policy = policyFor(transport, { ca: certificate().cert });

  void suite(`addresses, over the ${transport} transport`, () => {
    test("redirects are followed, relative ones too", async () => {
      const { result, requests } = await attempt({
        transport,
        bytes: SAMPLE,
        handler: (request, reply) => {
          if (request.target === "/image") return reply.status(301, { Location: "/a/b?c=d" });
          if (request.target === "/a/b?c=d") return reply.status(307, { Location: "../e%20f" });
          return reply.file(SAMPLE);
        },
      });
      assert.notEqual(result, null);
      assert.deepEqual(
        requests.map((request) => request.target),
        ["/image", "/a/b?c=d", "/e%20f"],
      );
    });

    test("ten redirects are followed, an eleventh and a circle are not", async () => {
      const chain = (length: number): Handler => {
        return (request, reply) =>
          request.index < length ? reply.status(302, { Location: `/${request.index}` }) : reply.file(SAMPLE);
      };
      assert.notEqual((await attempt({ transport, bytes: SAMPLE, handler: chain(10) })).result, null);
      const { error } = await attempt({ transport, bytes: SAMPLE, handler: chain(11) });
      assert.match(error?.message ?? "", /more than 10 redirects/);
      const circle = await attempt({
        transport,
        bytes: SAMPLE,
        handler: (request, reply) => reply.status(302, { Location: request.target === "/image" ? "/other" : "/image" }),
      });
      assert.match(circle.error?.message ?? "", /redirects in a circle/);
      assert.equal(circle.requests.length, 2);
    });

    test("a redirect to what can't be fetched is an error", async () => {
      for (const location of ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "javascript:1"]) {
        const handler: Handler = (_request, reply) => reply.status(302, { Location: location });
        const { error } = await attempt({ transport, bytes: SAMPLE, handler });
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED", location);
      }
    });

    test("credentials go to the origin they were given for, and are not shown", async () => {
      await using elsewhere = await TestServer.start(serveSample);
      await using origin = await TestServer.start((request, reply) =>
        request.target === "/start"
          ? reply.status(302, { Location: "/same" })
          : reply.status(302, { Location: `${elsewhere.origin}/end` }),
      );
      using folder = new Folder();
      const url = `${origin.origin.replace("//", "//user:p%40ss@")}/start`;
      await transferWith({ urls: [url], digest: SAMPLE_DIGEST, partial: folder.file("p") }, policy);
      const expected = `Basic ${Buffer.from("user:p@ss").toString("base64")}`;
      assert.deepEqual(
        origin.requests.map((request) => request.headers.get("authorization")),
        [expected, expected],
      );
      assert.equal(elsewhere.requests[0]?.headers.get("authorization"), undefined);

      const failing = url.replace(/:\d+\//, ":1/");
      const error = await failureOf({ urls: [failing], digest: SAMPLE_DIGEST, partial: folder.file("q") }, policy);
      assert.doesNotMatch(`${error.message}${JSON.stringify(error.details)}`, /user|p%40ss/);
    });

    test("a percent sign in a name or a password, of the address, a redirect or a proxy, is taken as it stands", async () => {
      await using proxy = await TestProxy.start("me:100%");
      await using origin = await TestServer.start((request, reply) =>
        request.target === "/start"
          ? reply.status(302, { Location: `${origin.origin.replace("//", "//a%zz:%ff%40@")}/end` })
          : reply.file(SAMPLE),
      );
      using folder = new Folder();
      const urls = [`${origin.origin.replace("//", "//bob:100%@")}/start`];
      await transferWith({ urls, digest: SAMPLE_DIGEST, partial: folder.file("p") }, policy);
      assert.deepEqual(
        origin.requests.map((request) => request.headers.get("authorization")),
        ["bob:100%", "a%zz:%ff%40"].map((text) => `Basic ${Buffer.from(text).toString("base64")}`),
      );
      const through = { HTTP_PROXY: `http://me:100%@${proxy.authority}`, http_proxy: undefined, no_proxy: undefined };
      await withEnvironment({ ...through, NO_PROXY: undefined }, async () => {
        await transferWith({ urls: [`${origin.origin}/x`], digest: SAMPLE_DIGEST, partial: folder.file("q") }, policy);
      });
      assert.equal(proxy.asked.length, 1);
    });

    test("https is verified, and given up only where a digest is pinned", async () => {
      await using secure = await TestServer.start(serveSample, { tls: certificate() });
      await using plain = await TestServer.start(serveSample);
      await using downgrading = await TestServer.start(
        (_request, reply) => reply.status(302, { Location: `${plain.origin}/x` }),
        { tls: certificate() },
      );
      using folder = new Folder();
      const at = (server: TestServer): { urls: string[]; partial: string } => ({
        urls: [`${server.origin}/image`],
        partial: folder.file(`p${++count}`),
      });
      let count = 0;
      const result = await transferWith({ ...at(secure), digest: SAMPLE_DIGEST }, policy);
      assert.equal(sha256(readFileSync(result.path)), SAMPLE_DIGEST);

      const untrusted = await failureOf({ ...at(secure), digest: SAMPLE_DIGEST }, policyFor(transport));
      assert.match(untrusted.message, /self-signed certificate|unable to verify/);
      assert.match(untrusted.hint ?? "", /NODE_EXTRA_CA_CERTS/);
      const refused = await failureOf({ ...at(downgrading), digest: null }, policy);
      assert.match(refused.message, /redirected from https to http/);
      await transferWith({ ...at(downgrading), digest: SAMPLE_DIGEST }, policy);
    });

    test("a server that never finishes the TLS handshake is left in time", async () => {
      await using silent = await TestServer.start(() => undefined);
      using folder = new Folder();
      const url = silent.origin.replace("http:", "https:");
      const request = { urls: [url], digest: null, partial: folder.file("p") };
      const error = await failureOf(request, { ...policy, connectTimeoutMs: 100, retries: 1 });
      assert.match(error.message, /timed out: no connection to 127\.0\.0\.1:\d+ within 0\.1 s/);
    });

    test("mirrors are tried in order, and the last error remembers them all", async () => {
      await using missing = await TestServer.start((_request, reply) => reply.status(404));
      await using wrong = await TestServer.start((_request, reply) => reply.file(sampleBytes(100_000, 3)));
      await using good = await TestServer.start(serveSample);
      using folder = new Folder();
      const [a, b, c] = [`${missing.origin}/a`, `${wrong.origin}/b`, `${good.origin}/c`];
      const result = await transferWith({ urls: [a, b, c], digest: SAMPLE_DIGEST, partial: folder.file("p") }, policy);
      assert.equal(result.url, c);

      const mismatch = await failureOf({ urls: [a, b, a], digest: SAMPLE_DIGEST, partial: folder.file("q") }, policy);
      assert.equal(mismatch.code, "IMAGE_CHECKSUM_MISMATCH");
      assert.match(mismatch.message, new RegExp(`^SHA-256 mismatch for ${b}\n`));
      const gone = await failureOf(
        { urls: [a, `${missing.origin}/z`], digest: SAMPLE_DIGEST, partial: folder.file("q") },
        policy,
      );
      assert.match(gone.message, /\/z: HTTP 404/);
      assert.match(gone.hint ?? "", /no such file/);
      assert.deepEqual(gone.details["attempts"], [
        { url: a, reason: "HTTP 404 Status" },
        { url: `${missing.origin}/z`, reason: "HTTP 404 Status" },
      ]);
    });

    test("with a pinned digest a mirror goes on where another one broke; without one it starts anew", async () => {
      await using breaking = await TestServer.start((request, reply) =>
        request.index === 0 ? reply.file(SAMPLE, { cutAfter: 60_000 }) : reply.status(404),
      );
      await using good = await TestServer.start((_request, reply) => reply.file(SAMPLE, { etag: '"another"' }));
      for (const [digest, expected] of [
        [SAMPLE_DIGEST, "bytes=60000-"],
        [null, undefined],
      ] as const) {
        using folder = new Folder();
        good.requests.length = 0;
        breaking.requests.length = 0;
        const urls = [`${breaking.origin}/image`, `${good.origin}/image`];
        const result = await transferWith({ urls, digest, partial: folder.file("p") }, policy);
        assert.equal(result.contentDigest, SAMPLE_DIGEST);
        assert.equal(good.requests[0]?.headers.get("range"), expected);
        assert.equal(good.requests[0]?.headers.get("if-range"), undefined);
      }
    });
  });
}

void suite("other kinds of addresses", () => {
  test("a pipe is refused at once, though nobody writes to it", async () => {
    using folder = new Folder();
    execFileSync("mkfifo", [folder.file("pipe")]);
    const url = pathToFileURL(folder.file("pipe")).href;
    const promise = transferWith({ urls: [url], digest: null, partial: folder.file("p") }, policyFor("fast"));
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<string>((resolve) => {
      timer = setTimeout(() => {
        closeSync(openSync(folder.file("pipe"), "r+")); // so that whoever waits for a writer waits no more
        resolve("it was too late");
      }, 15_000);
    });
    const outcome = await Promise.race([promise.catch((error: unknown) => (error as ImageError).message), late]);
    clearTimeout(timer);
    assert.match(typeof outcome === "string" ? outcome : "it succeeded", /not a regular file/);
  });

  test("a file is copied with its holes, and gone on with only if it is still the same", async () => {
    using folder = new Folder();
    const source = folder.file("source.img");
    const bytes = Buffer.concat([SAMPLE, Buffer.alloc(1_000_000), SAMPLE]);
    writeFileSync(source, bytes);
    const url = pathToFileURL(source).href;
    const result = await transferWith({ urls: [url], digest: null, partial: folder.file("p") }, policyFor("fast"));
    assert.equal(result.digest, sha256(bytes));
    assert.ok(result.extents.length > 1);

    const stop = new AbortController();
    const request = { urls: [url], digest: null, partial: folder.file("q"), signal: stop.signal };
    const aborting = { ...request, onProgress: () => stop.abort() };
    await assert.rejects(transferWith(aborting, policyFor("fast")), { name: "AbortError" });
    const changed = sampleBytes(bytes.length, 9);
    writeFileSync(source, changed);
    const again = await transferWith({ urls: [url], digest: null, partial: folder.file("q") }, policyFor("fast"));
    assert.equal(again.digest, sha256(changed));
  });

  test("what can't be read as a file is an error that names it", async () => {
    using folder = new Folder();
    for (const [url, reason] of [
      [pathToFileURL(folder.file("none")).href, /ENOENT/],
      [pathToFileURL(folder.path).href, /not a regular file|EISDIR/],
      ["file:///dev/zero", /not a regular file/],
      ["ftp://127.0.0.1/x", /kind of address is not supported \(http:, https:, file: are\)/],
      ["no address", /kind of address is not supported/],
    ] as const) {
      const promise = transferWith({ urls: [url], digest: null, partial: folder.file("p") }, policyFor("fast"));
      await assert.rejects(promise, (error: ImageError) => {
        assert.equal(error.code, "IMAGE_DOWNLOAD_FAILED");
        assert.ok(error.message.startsWith(`Download failed for ${url}: `), error.message);
        assert.match(error.message, reason);
        return true;
      });
    }
  });

  test("SMOLVM_MIRROR names bases that take the place of the origin", async () => {
    const url = "https://origin.example/a/b.img?x=1";
    await withEnvironment({ SMOLVM_MIRROR: undefined }, () => {
      assert.deepEqual(mirrorsOf(url), []);
      return Promise.resolve();
    });
    await withEnvironment({ SMOLVM_MIRROR: "https://m.example/ http://n.example/{host}/p, " }, () => {
      assert.deepEqual(mirrorsOf(url), [
        "https://m.example/a/b.img?x=1",
        "http://n.example/origin.example/p/a/b.img?x=1",
      ]);
      assert.deepEqual(mirrorsOf("file:///a"), []);
      return Promise.resolve();
    });
  });
});
