import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { suite, test } from "node:test";
import { gzipSync } from "node:zlib";

import { HostError, ImageError } from "../../../src/errors.js";
import type { TransferRequest, TransferResult } from "../../../src/images/fetch/request.js";
import { discardPartial, transferWith } from "../../../src/images/fetch/transfer.js";
import { TestServer, type FileOptions } from "../../fixtures/servers/server.js";
import { Folder, policyFor, sampleBytes, sha256 } from "./setting.js";

const MIB = 1024 * 1024;
const PLAIN = Buffer.concat([sampleBytes(700_000, 3), Buffer.alloc(5 * MIB), sampleBytes(300_001, 4)]);
const FORMATS = [
  { name: "gzip", extension: "gz", pack: (bytes: Buffer) => gzipSync(bytes) },
  {
    name: "xz",
    extension: "xz",
    pack: (bytes: Buffer) => execFileSync("xz", ["-c"], { input: bytes, maxBuffer: 64 * MIB }),
  },
  {
    name: "zstd",
    extension: "zst",
    pack: (bytes: Buffer) => execFileSync("zstd", ["-c"], { input: bytes, maxBuffer: 64 * MIB }),
  },
] as const;

/** Fetches `packed` under `name` and looks at what is left in the folder. */
async function fetched(
  packed: Buffer,
  name: string,
  more: Partial<TransferRequest> & { readonly first?: FileOptions } = {},
): Promise<{ result: TransferResult; stored: Buffer; allocated: number }> {
  const { first = {}, ...request } = more;
  using folder = new Folder();
  await using server = await TestServer.start((asked, reply) => reply.file(packed, asked.index === 0 ? first : {}));
  const urls = [`${server.origin}/${name}`];
  let result: TransferResult;
  try {
    result = await transferWith(
      { urls, digest: sha256(packed), partial: folder.file("p"), ...request },
      policyFor("fast"),
    );
  } catch (error) {
    assert.ok(!folder.names().some((name) => name.endsWith(".unpacked")), "an unpacked file stays behind");
    throw error;
  }
  const stored = readFileSync(result.path);
  const own = ["p", "p.journal"];
  assert.deepEqual(folder.names(), [...new Set([...own, result.path.slice(folder.path.length + 1)])].sort());
  return { result, stored, allocated: statSync(result.path).blocks * 512 };
}

/** The programs that this process has running. */
function children(): string {
  return readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim();
}

function failsWith(reason: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ImageError, String(error));
    assert.equal(error.code, "IMAGE_DOWNLOAD_FAILED");
    assert.match(error.message, reason);
    return true;
  };
}

void suite("compressed assets", () => {
  for (const { name, extension, pack } of FORMATS) {
    const packed = pack(PLAIN);

    test(`${name} is unpacked as it streams, with holes, and both digests are known`, async () => {
      for (const path of [`rootfs.ext4.${extension}`, "rootfs.ext4", `A.IMG.${extension.toUpperCase()}?version=2`]) {
        const { result, stored, allocated } = await fetched(packed, path);
        assert.ok(stored.equals(PLAIN));
        assert.equal(result.digest, sha256(packed));
        assert.equal(result.contentDigest, sha256(PLAIN));
        assert.equal(result.size, PLAIN.length);
        assert.equal(result.fetchedBytes, packed.length);
        assert.ok(allocated < 2 * MIB, `${allocated} bytes on disk`);
      }
    });

    test(`${name} that breaks on the way is gone on with`, async () => {
      const { stored, result } = await fetched(packed, `a.${extension}`, { first: { cutAfter: packed.length >> 1 } });
      assert.ok(stored.equals(PLAIN));
      assert.equal(result.fetchedBytes, packed.length);
    });

    test(`${name} that breaks on the way and can't be gone on with is whole in the end all the same`, async () => {
      const half = { cutAfter: packed.length >> 1, ranges: false, etag: null };
      const runs = Array.from({ length: 25 }, async () => {
        const { stored } = await fetched(packed, `a.${extension}`, { first: half });
        assert.ok(stored.equals(PLAIN));
      });
      await Promise.all(runs);
    });

    test(`${name} that is here already is not fetched again if it was never published`, async () => {
      for (const digest of [sha256(packed), null]) {
        using folder = new Folder();
        await using server = await TestServer.start((_request, reply) => reply.file(packed));
        const urls = [`${server.origin}/mirror.${extension}`, `${server.origin}/a.${extension}`];
        const request = { urls: urls.slice(1), digest, partial: folder.file("p") };
        const first = await transferWith(request, policyFor("fast"));
        // The process was killed here, or could not put the file where it belongs.
        const second = await transferWith({ ...request, urls }, policyFor("fast"));
        assert.equal(second.fetchedBytes, 0);
        assert.equal(server.requests.length, 1);
        assert.equal(second.contentDigest, first.contentDigest);
        assert.ok(readFileSync(second.path).equals(PLAIN));
        assert.equal(folder.names().length, 3, "the first unpacked file stays behind");
        await discardPartial(request.partial);
        assert.deepEqual(folder.names(), []);
      }
    });

    test(`${name} that is cut off, damaged, or not ${name} at all is never used`, async () => {
      const damaged = Buffer.from(packed);
      damaged.writeUInt32LE(0xdeadbeef, packed.length - 3000);
      const cut = packed.subarray(0, packed.length - 100);
      for (const bytes of [cut, damaged]) {
        await assert.rejects(fetched(bytes, `a.${extension}`), failsWith(/can't be unpacked/));
        await assert.rejects(fetched(bytes, `a.${extension}`, { digest: null }), failsWith(/can't be unpacked/));
      }
      await assert.rejects(fetched(PLAIN, `a.${extension}`), failsWith(new RegExp(`says ${name} but`)));
    });

    test(`a wrong digest is told before what is wrong with the ${name} data`, async () => {
      const damaged = Buffer.from(packed);
      damaged.writeUInt32LE(0xdeadbeef, packed.length - 3000);
      const promise = fetched(damaged, `a.${extension}`, { digest: sha256(packed) });
      await assert.rejects(promise, { code: "IMAGE_CHECKSUM_MISMATCH" });
    });

    test(`a ${name} bomb stops at the limit`, async () => {
      const bomb = pack(Buffer.alloc(64 * MIB));
      await assert.rejects(
        fetched(bomb, `a.${extension}`, { maxUnpackedBytes: 10 * MIB }),
        failsWith(/larger than the limit of 10485760 bytes/),
      );
      await assert.rejects(fetched(bomb, "a", { maxUnpackedBytes: 10 * MIB }), failsWith(/larger than the limit/));
      const { result, allocated } = await fetched(bomb, "a", { maxUnpackedBytes: 64 * MIB });
      assert.equal(result.size, 64 * MIB);
      assert.ok(allocated <= 8192);
    });
  }

  test("data that unpacks to hundreds of times its size is a bomb, holes are not", async () => {
    const policy = policyFor("fast", { freeDataBytes: MIB });
    for (const [byte, code] of [
      [0, null],
      [65, "IMAGE_DOWNLOAD_FAILED"],
    ] as const) {
      using folder = new Folder();
      const packed = gzipSync(Buffer.alloc(64 * MIB, byte));
      await using server = await TestServer.start((_request, reply) => reply.file(packed));
      const request = { urls: [`${server.origin}/a.gz`], digest: null, partial: folder.file("p") };
      const outcome = await transferWith(request, policy).catch((error: unknown) => error as ImageError);
      assert.equal("code" in outcome ? outcome.code : null, code);
      if (code === null) continue;
      assert.match((outcome as ImageError).message, /more than 200 times its size in data/);
      assert.deepEqual(folder.names(), []);
    }
  });

  test("what lies where the files of a transfer belong is taken away, and no program is left running for it", async () => {
    const packed = FORMATS[1].pack(PLAIN);
    await using server = await TestServer.start((_request, reply) => reply.file(packed));
    for (const name of ["p", "p.journal", "p.unpacked"]) {
      using folder = new Folder();
      mkdirSync(folder.file(`${name}/below`), { recursive: true });
      const request = { urls: [`${server.origin}/a.xz`], digest: null, partial: folder.file("p") };
      const before = children();
      const result = await transferWith(request, policyFor("fast"));
      assert.ok(readFileSync(result.path).equals(PLAIN), name);
      await discardPartial(request.partial);
      assert.deepEqual(folder.names(), []);
      assert.deepEqual(children(), before, name);
    }
  });

  test("several gzip members are one file", async () => {
    const { stored } = await fetched(Buffer.concat([gzipSync("one,"), gzipSync("two")]), "a.gz");
    assert.equal(stored.toString(), "one,two");
  });

  test("what follows compressed data is not lost: an error by name, and taken as it is otherwise", async () => {
    const archive = Buffer.concat([gzipSync(PLAIN), Buffer.from("070701 and what else a boot archive holds")]);
    await assert.rejects(fetched(archive, "a.gz"), failsWith(/other bytes follow|can't be unpacked/));
    const { stored, result } = await fetched(archive, "initrd.img");
    assert.ok(stored.equals(archive));
    assert.equal(result.contentDigest, result.digest);
  });

  test("a program that lacks is a HostError that tells how to get it, and what was fetched stays", async () => {
    const before = process.env["PATH"];
    using folder = new Folder();
    const packed = FORMATS[1].pack(PLAIN);
    await using server = await TestServer.start((_request, reply) => reply.file(packed));
    const request = { urls: [`${server.origin}/a.xz`], digest: sha256(packed), partial: folder.file("p") };
    const policy = policyFor("fast");
    try {
      process.env["PATH"] = folder.path;
      await assert.rejects(transferWith(request, policy), (error: unknown) => {
        assert.ok(error instanceof HostError);
        assert.equal(error.code, "HOST_TOOL_MISSING");
        assert.match(error.hint ?? "", /xz/);
        return true;
      });
    } finally {
      process.env["PATH"] = before;
    }
    const result = await transferWith(request, policy);
    assert.equal(result.contentDigest, sha256(PLAIN));
    assert.equal(result.fetchedBytes, 0);
  });

  test("an abort while unpacking ends the program that does it", async () => {
    const packed = FORMATS[1].pack(sampleBytes(3 * MIB));
    const stop = new AbortController();
    const promise = fetched(packed, "a.xz", {
      signal: stop.signal,
      onProgress: ({ phase }) => (phase === "verify" ? stop.abort() : undefined),
    });
    await assert.rejects(promise, { name: "AbortError" });
  });
});
