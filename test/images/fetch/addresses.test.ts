import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { connect, createServer, type AddressInfo } from "node:net";
import { suite, test } from "node:test";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

import { HostError, ImageError } from "../../../src/errors.js";
import { FastTransport } from "../../../src/images/fetch/http/fast.js";
import { proxyFor } from "../../../src/images/fetch/http/proxy.js";
import { mirrorsOf } from "../../../src/images/fetch/mirrors.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { selfSigned } from "../../fixtures/servers/certificate.js";
import { TestProxy } from "../../fixtures/servers/proxy.js";
import { pause, TestServer, type Handler } from "../../fixtures/servers/server.js";
import { attempt } from "./attempt.js";
import { Folder, policyFor, sampleBytes, sha256, TRANSPORTS } from "./setting.js";

const BYTES = sampleBytes(100_000);
const DIGEST = sha256(BYTES);
const serve: Handler = (_request, reply) => reply.file(BYTES);
const CERTIFICATE = selfSigned();

/** Runs with other environment variables; undefined takes one away. */
async function withEnvironment(changes: Record<string, string | undefined>, body: () => Promise<void>): Promise<void> {
  const before = { ...process.env };
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) Reflect.deleteProperty(process.env, name);
    else process.env[name] = value;
  }
  try {
    await body();
  } finally {
    for (const name of Object.keys(changes)) Reflect.deleteProperty(process.env, name);
    Object.assign(process.env, before);
  }
}

for (const transport of TRANSPORTS) {
  const policy = policyFor(transport, { ca: CERTIFICATE.cert });

  void suite(`addresses, over the ${transport} transport`, () => {
    test("redirects are followed, relative ones too", async () => {
      const { result, requests } = await attempt({
        transport,
        bytes: BYTES,
        handler: (request, reply) => {
          if (request.target === "/image") return reply.status(301, { Location: "/a/b?c=d" });
          if (request.target === "/a/b?c=d") return reply.status(307, { Location: "../e%20f" });
          return reply.file(BYTES);
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
          request.index < length ? reply.status(302, { Location: `/${request.index}` }) : reply.file(BYTES);
      };
      assert.notEqual((await attempt({ transport, bytes: BYTES, handler: chain(10) })).result, null);
      const { error } = await attempt({ transport, bytes: BYTES, handler: chain(11) });
      assert.match(error?.message ?? "", /more than 10 redirects/);
      const circle = await attempt({
        transport,
        bytes: BYTES,
        handler: (request, reply) => reply.status(302, { Location: request.target === "/image" ? "/other" : "/image" }),
      });
      assert.match(circle.error?.message ?? "", /redirects in a circle/);
      assert.equal(circle.requests.length, 2);
    });

    test("a redirect to what can't be fetched is an error", async () => {
      for (const location of ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "javascript:1"]) {
        const handler: Handler = (_request, reply) => reply.status(302, { Location: location });
        const { error } = await attempt({ transport, bytes: BYTES, handler });
        assert.equal(error?.code, "IMAGE_DOWNLOAD_FAILED", location);
      }
    });

    test("credentials go to the origin they were given for, and are not shown", async () => {
      await using elsewhere = await TestServer.start(serve);
      await using origin = await TestServer.start((request, reply) =>
        request.target === "/start"
          ? reply.status(302, { Location: "/same" })
          : reply.status(302, { Location: `${elsewhere.origin}/end` }),
      );
      using folder = new Folder();
      const url = `${origin.origin.replace("//", "//user:p%40ss@")}/start`;
      await transferWith({ urls: [url], digest: DIGEST, partial: folder.file("p") }, policy);
      const expected = `Basic ${Buffer.from("user:p@ss").toString("base64")}`;
      assert.deepEqual(
        origin.requests.map((request) => request.headers.get("authorization")),
        [expected, expected],
      );
      assert.equal(elsewhere.requests[0]?.headers.get("authorization"), undefined);

      const failing = url.replace(/:\d+\//, ":1/");
      const error = await failure({ urls: [failing], digest: DIGEST, partial: folder.file("q") });
      assert.doesNotMatch(`${error.message}${JSON.stringify(error.details)}`, /user|p%40ss/);
    });

    test("a percent sign in a name or a password, of the address, a redirect or a proxy, is taken as it stands", async () => {
      await using proxy = await TestProxy.start("me:100%");
      await using origin = await TestServer.start((request, reply) =>
        request.target === "/start"
          ? reply.status(302, { Location: `${origin.origin.replace("//", "//a%zz:%ff%40@")}/end` })
          : reply.file(BYTES),
      );
      using folder = new Folder();
      const urls = [`${origin.origin.replace("//", "//bob:100%@")}/start`];
      await transferWith({ urls, digest: DIGEST, partial: folder.file("p") }, policy);
      assert.deepEqual(
        origin.requests.map((request) => request.headers.get("authorization")),
        ["bob:100%", "a%zz:%ff%40"].map((text) => `Basic ${Buffer.from(text).toString("base64")}`),
      );
      const through = { HTTP_PROXY: `http://me:100%@${proxy.authority}`, http_proxy: undefined, no_proxy: undefined };
      await withEnvironment({ ...through, NO_PROXY: undefined }, async () => {
        await transferWith({ urls: [`${origin.origin}/x`], digest: DIGEST, partial: folder.file("q") }, policy);
      });
      assert.equal(proxy.asked.length, 1);
    });

    test("https is verified, and given up only where a digest is pinned", async () => {
      await using secure = await TestServer.start(serve, { tls: CERTIFICATE });
      await using plain = await TestServer.start(serve);
      await using downgrading = await TestServer.start(
        (_request, reply) => reply.status(302, { Location: `${plain.origin}/x` }),
        { tls: CERTIFICATE },
      );
      using folder = new Folder();
      const at = (server: TestServer): { urls: string[]; partial: string } => ({
        urls: [`${server.origin}/image`],
        partial: folder.file(`p${++count}`),
      });
      let count = 0;
      const result = await transferWith({ ...at(secure), digest: DIGEST }, policy);
      assert.equal(sha256(readFileSync(result.path)), DIGEST);

      const untrusted = await failure({ ...at(secure), digest: DIGEST }, policyFor(transport));
      assert.match(untrusted.message, /self-signed certificate|unable to verify/);
      assert.match(untrusted.hint ?? "", /NODE_EXTRA_CA_CERTS/);
      const refused = await failure({ ...at(downgrading), digest: null });
      assert.match(refused.message, /redirected from https to http/);
      await transferWith({ ...at(downgrading), digest: DIGEST }, policy);
    });

    test("a server that never finishes the TLS handshake is left in time", async () => {
      await using silent = await TestServer.start(() => undefined);
      using folder = new Folder();
      const url = silent.origin.replace("http:", "https:");
      const request = { urls: [url], digest: null, partial: folder.file("p") };
      const error = await failure(request, { ...policy, connectTimeoutMs: 100, retries: 1 });
      assert.match(error.message, /timed out: no connection to 127\.0\.0\.1:\d+ within 0\.1 s/);
    });

    test("mirrors are tried in order, and the last error remembers them all", async () => {
      await using missing = await TestServer.start((_request, reply) => reply.status(404));
      await using wrong = await TestServer.start((_request, reply) => reply.file(sampleBytes(100_000, 3)));
      await using good = await TestServer.start(serve);
      using folder = new Folder();
      const [a, b, c] = [`${missing.origin}/a`, `${wrong.origin}/b`, `${good.origin}/c`];
      const result = await transferWith({ urls: [a, b, c], digest: DIGEST, partial: folder.file("p") }, policy);
      assert.equal(result.url, c);

      const mismatch = await failure({ urls: [a, b, a], digest: DIGEST, partial: folder.file("q") });
      assert.equal(mismatch.code, "IMAGE_CHECKSUM_MISMATCH");
      assert.match(mismatch.message, new RegExp(`^SHA-256 mismatch for ${b}\n`));
      const gone = await failure({ urls: [a, `${missing.origin}/z`], digest: DIGEST, partial: folder.file("q") });
      assert.match(gone.message, /\/z: HTTP 404/);
      assert.match(gone.hint ?? "", /no such file/);
      assert.deepEqual(gone.details["attempts"], [
        { url: a, reason: "HTTP 404 Status" },
        { url: `${missing.origin}/z`, reason: "HTTP 404 Status" },
      ]);
    });

    test("with a pinned digest a mirror goes on where another one broke; without one it starts anew", async () => {
      await using breaking = await TestServer.start((request, reply) =>
        request.index === 0 ? reply.file(BYTES, { cutAfter: 60_000 }) : reply.status(404),
      );
      await using good = await TestServer.start((_request, reply) => reply.file(BYTES, { etag: '"another"' }));
      for (const [digest, expected] of [
        [DIGEST, "bytes=60000-"],
        [null, undefined],
      ] as const) {
        using folder = new Folder();
        good.requests.length = 0;
        breaking.requests.length = 0;
        const urls = [`${breaking.origin}/image`, `${good.origin}/image`];
        const result = await transferWith({ urls, digest, partial: folder.file("p") }, policy);
        assert.equal(result.contentDigest, DIGEST);
        assert.equal(good.requests[0]?.headers.get("range"), expected);
        assert.equal(good.requests[0]?.headers.get("if-range"), undefined);
      }
    });

    test("proxies are used as the environment says, with their credentials", async () => {
      await using proxy = await TestProxy.start("me:secret");
      await using plain = await TestServer.start(serve);
      await using secure = await TestServer.start(serve, { tls: CERTIFICATE });
      using folder = new Folder();
      const fetched = async (server: TestServer): Promise<void> => {
        const urls = [`${server.origin}/image`];
        await transferWith({ urls, digest: DIGEST, partial: folder.file(`p${++count}`) }, policy);
      };
      let count = 0;
      const address = `http://me:secret@${proxy.authority}`;
      const none = { no_proxy: undefined, NO_PROXY: undefined, http_proxy: undefined, https_proxy: undefined };
      await withEnvironment({ ...none, HTTP_PROXY: address, HTTPS_PROXY: address }, async () => {
        await fetched(plain);
        await fetched(secure);
        assert.deepEqual(proxy.asked.splice(0), [`GET ${plain.origin}/image`, `CONNECT 127.0.0.1:${secure.port}`]);
      });
      await withEnvironment({ ...none, http_proxy: address, HTTP_PROXY: "http://127.0.0.1:1" }, async () => {
        await fetched(plain);
        assert.equal(proxy.asked.splice(0).length, 1);
      });
      for (const except of ["*", "127.0.0.1", "127.0.0.0/8", `127.0.0.1:${plain.port}`, "other.example, 127.0.0.1"]) {
        await withEnvironment({ ...none, HTTP_PROXY: address, NO_PROXY: except }, () => fetched(plain));
      }
      assert.deepEqual(proxy.asked, []);
      await withEnvironment({ ...none, HTTPS_PROXY: `http://${proxy.authority}` }, async () => {
        const error = await failure({ urls: [`${secure.origin}/i`], digest: DIGEST, partial: folder.file("q") });
        assert.match(error.message, /the proxy 127\.0\.0\.1:\d+ refused with HTTP 407/);
        assert.match(error.hint ?? "", /HTTPS_PROXY .*http:\/\/name:password@proxy/);
      });
      await withEnvironment({ ...none, ALL_PROXY: "socks5://127.0.0.1:1" }, async () => {
        const error = await failure({ urls: [`${plain.origin}/i`], digest: DIGEST, partial: folder.file("q") });
        assert.match(error.message, /ALL_PROXY names a proxy of a kind that is not supported/);
        assert.match(error.hint ?? "", /Set ALL_PROXY to a proxy with an http: or https: address/);
      });
    });

    test("what can be done about a failure is its hint", async () => {
      await using server = await TestServer.start((request, reply) => reply.status(Number(request.target.slice(1))));
      const noTls = createServer((socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
      noTls.listen(0, "127.0.0.1");
      await once(noTls, "listening");
      using folder = new Folder();
      const cases = [
        [`${server.origin}/404`, /no such file/],
        [`${server.origin}/410`, /no such file/],
        [`${server.origin}/401`, /https:\/\/name:password@host/],
        [`${server.origin}/403`, /refuses the file/],
        [`${server.origin}/503`, /Try again later: what was fetched is kept/],
        ["http://127.0.0.1:1/x", /Nothing answers at that host and port/],
        ["http://nowhere.invalid/x", /Check the host's name/],
        [`https://127.0.0.1:${(noTls.address() as AddressInfo).port}/x`, /may not speak TLS/],
        ["ftp://127.0.0.1/x", /such as https:/],
      ] as const;
      for (const [url, hint] of cases) {
        const request = { urls: [url], digest: DIGEST, partial: folder.file("p") };
        const error = await failure(request, { ...policy, retries: 1 });
        assert.ok(error.message.startsWith(`Download failed for ${url}: `), error.message);
        assert.match(error.hint ?? "", hint, `${url}: ${error.message}`);
      }
      noTls.close();
    });

    test("an empty file is no image, wherever it comes from", async () => {
      await using server = await TestServer.start(async (request, reply) => {
        if (request.target === "/length") return reply.status(200);
        if (request.target === "/gzip") return reply.file(gzipSync(""));
        await reply.head(200, { "Transfer-Encoding": "chunked" });
        await reply.text("0\r\n\r\n");
      });
      using folder = new Folder();
      writeFileSync(folder.file("empty"), "");
      const urls = ["/length", "/gzip", "/chunked"].map((target) => server.origin + target);
      for (const url of [...urls, pathToFileURL(folder.file("empty")).href]) {
        for (const digest of url.endsWith("gzip") ? [null] : [null, sha256(Buffer.alloc(0))]) {
          const error = await failure({ urls: [url], digest, partial: folder.file("p") });
          assert.equal(error.message, `Download failed for ${url}: it is empty`);
          assert.deepEqual(folder.names(), ["empty"]);
        }
      }
    });

    test("an error that nobody foresaw leaves as one of this machine, with its cause", async () => {
      await using server = await TestServer.start(serve);
      using folder = new Folder();
      const cause = new RangeError("never seen before");
      const broken = Object.defineProperty({ ...policy }, "maxRedirects", {
        get: () => {
          throw cause;
        },
      });
      const request = { urls: [server.origin], digest: DIGEST, partial: folder.file("p") };
      await assert.rejects(transferWith(request, broken), (error: unknown) => {
        assert.ok(error instanceof HostError, String(error));
        assert.equal(error.cause, cause);
        assert.match(error.message, /never seen before/);
        return true;
      });
    });

    const failure = async (request: Parameters<typeof transferWith>[0], changed = policy): Promise<ImageError> => {
      const error: unknown = await transferWith(request, changed).then(
        () => assert.fail("it succeeded"),
        (thrown: unknown) => thrown,
      );
      assert.ok(error instanceof ImageError, String(error));
      return error;
    };
  });
}

void suite("proxies", () => {
  test("NO_PROXY names hosts in whichever form they are written", async () => {
    const excepted = (host: string, list: string): boolean => {
      process.env["NO_PROXY"] = list;
      return proxyFor(new URL(`http://${host}/x`)) === null;
    };
    const none = { no_proxy: undefined, http_proxy: undefined, all_proxy: undefined };
    await withEnvironment({ ...none, NO_PROXY: "", HTTP_PROXY: "http://127.0.0.1:1" }, () => {
      for (const [host, list] of [
        ["example.com", "example.com."],
        ["example.com.", "example.com"],
        ["a.example.com.", ".example.com"],
        ["bücher.de", "bücher.de"],
        ["www.bücher.de", "xn--bcher-kva.de"],
        ["[2001:db8::5]", "2001:0db8::0005"],
        ["[2001:db8::5]", "[2001:0DB8::0005]:80"],
        ["[2001:db8::5]", "[2001:db8::]/32"],
        ["[2001:db8::5]", "2001:db8::/32"],
        ["10.1.2.3", "10.0.0.0/8"],
      ] as const) {
        assert.ok(excepted(host, list), `${host} in ${list}`);
      }
      for (const [host, list] of [
        ["example.com", "ample.com"],
        ["example.com.org", "example.com"],
        ["[2001:db8::5]", "2001:db8::6"],
        ["[2001:db8::5]", "[2001:db8::5]:81"],
        ["11.1.2.3", "10.0.0.0/8"],
        ["example.com", ","],
        ["example.com", "."],
      ] as const) {
        assert.ok(!excepted(host, list), `${host} not in ${list}`);
      }
      return Promise.resolve();
    });
  });

  test("any answer of success to CONNECT opens the tunnel", async () => {
    await using secure = await TestServer.start(serve, { tls: CERTIFICATE });
    const proxy = createServer((client) => {
      client.on("error", () => undefined); // it hangs up in the end
      client.once("data", () => {
        client.write("HTTP/1.1 201 Created\r\n\r\n");
        const server = connect(secure.port, "127.0.0.1");
        server.on("error", () => client.destroy());
        server.pipe(client).pipe(server);
      });
    });
    proxy.listen(0, "127.0.0.1");
    await once(proxy, "listening");
    try {
      using folder = new Folder();
      const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
      await withEnvironment({ HTTPS_PROXY: address, https_proxy: undefined, no_proxy: undefined }, async () => {
        const request = { urls: [`${secure.origin}/x`], digest: DIGEST, partial: folder.file("p") };
        await transferWith(request, policyFor("fast", { ca: CERTIFICATE.cert }));
      });
    } finally {
      proxy.close();
    }
  });
});

void suite("a connection that is used again", () => {
  test("and that the server has closed meanwhile is replaced by a new one", async () => {
    await using server = await TestServer.start(async (_request, reply) => {
      await reply.file(BYTES);
      setTimeout(() => reply.close(), 20);
    });
    const transport = new FastTransport(policyFor("fast"));
    try {
      for (let i = 0; i < 3; i++) {
        let received = 0;
        await transport.get(
          { url: new URL(server.origin), headers: {}, signal: new AbortController().signal },
          { head: () => true, data: (bytes) => (received += bytes.length) > 0 },
        );
        assert.equal(received, BYTES.length);
        await pause(60);
      }
      assert.equal(server.connections, 3);
    } finally {
      transport.close();
    }
  });
});

void suite("other kinds of addresses", () => {
  test("a pipe is refused at once, though nobody writes to it", async () => {
    using folder = new Folder();
    execFileSync("mkfifo", [folder.file("pipe")]);
    const url = pathToFileURL(folder.file("pipe")).href;
    const promise = transferWith({ urls: [url], digest: null, partial: folder.file("p") }, policyFor("fast"));
    const late = pause(2_000).then(() => {
      closeSync(openSync(folder.file("pipe"), "r+")); // so that whoever waits for a writer waits no more
      return "it was too late";
    });
    const outcome = await Promise.race([promise.catch((error: unknown) => (error as ImageError).message), late]);
    assert.match(typeof outcome === "string" ? outcome : "it succeeded", /not a regular file/);
  });

  test("a file is copied with its holes, and gone on with only if it is still the same", async () => {
    using folder = new Folder();
    const source = folder.file("source.img");
    const bytes = Buffer.concat([BYTES, Buffer.alloc(1_000_000), BYTES]);
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
