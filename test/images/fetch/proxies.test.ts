import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type AddressInfo } from "node:net";
import { suite, test } from "node:test";

import { FastTransport } from "../../../src/images/fetch/http/fast.js";
import { proxyFor } from "../../../src/images/fetch/http/proxy.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { TestProxy } from "../../fixtures/servers/proxy.js";
import { pause, TestServer } from "../../fixtures/servers/server.js";
import { failureOf } from "./attempt.js";
import {
  certificate,
  Folder,
  policyFor,
  SAMPLE,
  SAMPLE_DIGEST,
  serveSample,
  TRANSPORTS,
  withEnvironment,
} from "./setting.js";

for (const transport of TRANSPORTS) {
  const policy = policyFor(transport, { ca: certificate().cert });

  void suite(`proxies, over the ${transport} transport`, () => {
    test("proxies are used as the environment says, with their credentials", async () => {
      await using proxy = await TestProxy.start("me:secret");
      await using plain = await TestServer.start(serveSample);
      await using secure = await TestServer.start(serveSample, { tls: certificate() });
      using folder = new Folder();
      const fetched = async (server: TestServer): Promise<void> => {
        const urls = [`${server.origin}/image`];
        await transferWith({ urls, digest: SAMPLE_DIGEST, partial: folder.file(`p${++count}`) }, policy);
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
        const error = await failureOf(
          { urls: [`${secure.origin}/i`], digest: SAMPLE_DIGEST, partial: folder.file("q") },
          policy,
        );
        assert.match(error.message, /the proxy 127\.0\.0\.1:\d+ refused with HTTP 407/);
        assert.match(error.hint ?? "", /HTTPS_PROXY .*http:\/\/name:password@proxy/);
      });
      await withEnvironment({ ...none, ALL_PROXY: "socks5://127.0.0.1:1" }, async () => {
        const error = await failureOf(
          { urls: [`${plain.origin}/i`], digest: SAMPLE_DIGEST, partial: folder.file("q") },
          policy,
        );
        assert.match(error.message, /ALL_PROXY names a proxy of a kind that is not supported/);
        assert.match(error.hint ?? "", /Set ALL_PROXY to a proxy with an http: or https: address/);
      });
    });
  });
}

void suite("what is asked of a proxy", () => {
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
    await using secure = await TestServer.start(serveSample, { tls: certificate() });
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
        const request = { urls: [`${secure.origin}/x`], digest: SAMPLE_DIGEST, partial: folder.file("p") };
        await transferWith(request, policyFor("fast", { ca: certificate().cert }));
      });
    } finally {
      proxy.close();
    }
  });
});

void suite("a connection that is used again", () => {
  test("and that the server has closed meanwhile is replaced by a new one", async () => {
    await using server = await TestServer.start(async (_request, reply) => {
      await reply.file(SAMPLE);
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
        assert.equal(received, SAMPLE.length);
        await pause(60);
      }
      assert.equal(server.connections, 3);
    } finally {
      transport.close();
    }
  });
});
