import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { suite, test } from "node:test";

import fc from "fast-check";

import { Appender } from "../../../src/images/fetch/appender.js";
import {
  contentLength,
  contentRange,
  parseHead,
  retryAfterMs,
  strongValidator,
} from "../../../src/images/fetch/http/head.js";
import { Intervals } from "../../../src/images/fetch/intervals.js";
import { Journal, type JournalEntry } from "../../../src/images/fetch/journal.js";
import { PartialFile } from "../../../src/images/fetch/partial.js";
import { dataRuns, ExtentCollector } from "../../../src/images/zeros.js";
import { Folder, sampleBytes } from "./setting.js";

void suite("the parts of a transfer", () => {
  test("intervals know what is here and what lacks, whatever the order", () => {
    const run = fc.tuple(fc.nat(200), fc.nat(40)).map(([start, length]) => [start, start + length] as const);
    const property = fc.property(fc.array(run, { maxLength: 30 }), fc.integer({ min: 1, max: 260 }), (runs, total) => {
      const model = new Set<number>();
      for (const [start, end] of runs) for (let at = start; at < end; at++) model.add(at);
      const intervals = new Intervals(runs);
      assert.equal(intervals.covered, model.size);
      let prefix = 0;
      while (model.has(prefix)) prefix++;
      assert.equal(intervals.prefix, prefix);
      const missing = intervals
        .missing(total)
        .flatMap(([start, end]) => [...Array(end - start).keys()].map((i) => start + i));
      assert.deepEqual(
        missing,
        [...Array(total).keys()].filter((at) => !model.has(at)),
      );
      for (const [index, [start, end]] of intervals.runs.entries()) {
        assert.ok(end > start && start > (intervals.runs[index - 1]?.[1] ?? -1));
      }
    });
    fc.assert(property, { numRuns: 500 });
  });

  test("a file of ever so many holes is told by its larger ones, in bounded memory", () => {
    const piece = Buffer.alloc(16_384);
    piece[0] = 1;
    const collector = new ExtentCollector();
    const [runs, wide] = [200_000, new Map<number, number>()];
    let at = 0;
    for (let i = 0; i < runs; i++) {
      collector.add(piece, at);
      // One hole in a thousand is large.
      at += i % 1000 === 999 ? 100 * 16_384 : 16_384;
      if (i % 1000 === 999) wide.set(at, 99 * 16_384);
    }
    const { extents } = collector;
    assert.ok(extents.length <= 65_536, `${extents.length} runs`);
    assert.deepEqual(extents[0]?.[0], 0);
    assert.ok((extents.at(-1)?.[1] ?? 0) <= at);
    let previous = 0;
    const starts = new Set(extents.map(([start]) => start));
    for (const [start, end] of extents) {
      assert.ok(start >= previous && end > start);
      previous = end;
    }
    for (const [after] of wide) assert.ok(after >= at || starts.has(after), `the large hole before ${after} is gone`);
    // Every piece of data is within a run.
    let index = 0;
    at = 0;
    for (let i = 0; i < runs; i++) {
      while ((extents[index]?.[1] ?? Infinity) <= at) index++;
      assert.ok((extents[index]?.[0] ?? Infinity) <= at, `the data at ${at} is lost`);
      at += i % 1000 === 999 ? 100 * 16_384 : 16_384;
    }
  });

  test("what is left out as a hole is zero, and what is not has data in every block", () => {
    const piece = fc.record({ zero: fc.boolean(), length: fc.integer({ min: 1, max: 9000 }) });
    const property = fc.property(fc.array(piece, { maxLength: 12 }), fc.nat(20_000), (pieces, offset) => {
      const bytes = Buffer.concat(pieces.map(({ zero, length }) => Buffer.alloc(length, zero ? 0 : 7)));
      const rebuilt = Buffer.alloc(bytes.length);
      const runs = dataRuns(bytes, offset);
      for (let i = 0; i < runs.length; i += 2) bytes.copy(rebuilt, runs[i], runs[i], runs[i + 1]);
      assert.ok(rebuilt.equals(bytes));
      const collector = new ExtentCollector();
      for (let at = 0; at < bytes.length; at += 1000) collector.add(bytes.subarray(at, at + 1000), at);
      const blocks = new Set<number>();
      for (const [at, byte] of bytes.entries()) if (byte !== 0) blocks.add(at >> 12);
      const named = collector.extents.flatMap(([start, end]) => {
        assert.equal(start % 4096, 0);
        return [...Array(((end + 4095) >> 12) - (start >> 12)).keys()].map((i) => (start >> 12) + i);
      });
      assert.deepEqual(new Set(named), blocks);
    });
    fc.assert(property, { numRuns: 300 });
  });

  test("pieces of any size are put together to the same file, over whatever an earlier attempt left", async () => {
    const property = fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 12 }),
      fc.nat(5000),
      fc.constantFrom(1, 3, 8),
      async (lengths, start, lanes) => {
        using folder = new Folder();
        const bytes = sampleBytes(start + lengths.reduce((sum, length) => sum + length, 0), 13);
        const file = await PartialFile.open(folder.file("p"), null);
        file.restart({ url: "http://x/", total: bytes.length, validator: '"v"' });
        file.lanes = lanes;
        const tail = new Appender(file, start);
        let at = start;
        for (const length of lengths) {
          tail.push(bytes.subarray(at, at + length));
          at += length;
          assert.equal(tail.position, at);
        }
        tail.end();
        assert.deepEqual(file.missing(), start === 0 ? [] : [[0, start]]);
        // Garbage where the first bytes belong, as from an attempt whose journal entry was lost.
        await file.close();
        const stored = readFileSync(folder.file("p"));
        stored.fill(0xee, 0, start);
        writeFileSync(folder.file("p"), stored);
        const again = await PartialFile.open(folder.file("p"), null);
        assert.equal(again.covered, bytes.length - start);
        const first = new Appender(again, 0);
        first.push(bytes.subarray(0, start));
        first.end();
        assert.ok(again.complete);
        await again.close();
        assert.ok(readFileSync(folder.file("p")).equals(bytes));
      },
    );
    await fc.assert(property, { numRuns: 30 });
  });

  test("a journal that was cut off or changed anywhere is the entry before it, or none", () => {
    using folder = new Folder();
    const path = folder.file("journal");
    const entry = (n: number): JournalEntry => ({
      source: "s".repeat(64),
      digest: null,
      total: 1000 * n,
      validator: `"${n}"`,
      done: [[0, n]],
      synced: [],
    });
    const { journal } = Journal.open(path);
    for (let n = 1; n <= 5; n++) journal.write(entry(n));
    journal.close();
    const whole = readFileSync(path);
    const reopened = (bytes: Buffer): number | null => {
      writeFileSync(path, bytes);
      const opened = Journal.open(path);
      opened.journal.close();
      return opened.entry?.total ?? null;
    };
    assert.equal(reopened(whole), 5000);
    let tried = 0;
    for (let at = 0; at < whole.length; at += 7) {
      const changed = Buffer.from(whole);
      changed.writeUInt8(changed.readUInt8(at) ^ (1 << (at % 8)), at);
      assert.ok([4000, 5000].includes(reopened(changed) ?? 0), `a bit at ${at}`);
      assert.ok([null, 4000, 5000].includes(reopened(whole.subarray(0, at))), `cut off at ${at}`);
      tried += 2;
    }
    assert.ok(tried > 1000);
  });

  test("a head is read as HTTP says, and anything doubtful is left to the other parser", () => {
    const head = parseHead(Buffer.from("HTTP/1.1 206 Partial Content\r\nA:1\r\nb: \t two \r\nA: 3"));
    assert.deepEqual(head, {
      version: "1.1",
      status: 206,
      message: "Partial Content",
      headers: new Map([
        ["a", "1, 3"],
        ["b", "two"],
      ]),
    });
    for (const text of [
      "",
      "HTTP/1.1",
      "HTTP/1.1 20",
      "HTTP/2.0 200 OK",
      "http/1.1 200 OK",
      "HTTP/1.1 200 OK\r\n continued",
      "HTTP/1.1 200 OK\r\nno colon",
      "HTTP/1.1 200 OK\r\n: nothing",
      "HTTP/1.1 200 OK\r\nblank : x",
      "HTTP/1.1 200 OK\nA: 1",
      "HTTP/1.1 200 OK\r\nA: 1\0",
    ]) {
      assert.equal(parseHead(Buffer.from(text)), null, JSON.stringify(text));
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void parseHead(Buffer.from(bytes))),
      { numRuns: 2000 },
    );
  });

  test("what the headers say is taken only if it can be nothing else", () => {
    const of = (name: string, value: string): Parameters<typeof contentRange>[0] => ({
      status: 206,
      message: "",
      headers: new Map([[name, value]]),
    });
    assert.deepEqual(contentRange(of("content-range", "bytes 5-9/20")), { start: 5, end: 10, total: 20 });
    assert.deepEqual(contentRange(of("content-range", "bytes 5-9/*")), { start: 5, end: 10, total: null });
    for (const wrong of [
      "bytes 9-5/20",
      "bytes 5-20/20",
      "bytes=5-9/20",
      "bytes 5-9",
      "bytes */20",
      "bytes 5-9/20, 1",
    ]) {
      assert.equal(contentRange(of("content-range", wrong)), null, wrong);
    }
    assert.equal(contentLength(of("content-length", "7, 7")), 7);
    assert.throws(() => contentLength(of("content-length", "7, 8")));
    assert.equal(strongValidator(of("etag", '"a\u00e9"')), null);
    assert.equal(strongValidator(of("etag", '"a b"')), null);
    assert.equal(strongValidator(of("etag", '""')), '""');
    assert.equal(retryAfterMs(of("retry-after", "soon"), 0), null);
    assert.equal(retryAfterMs(of("retry-after", "Thu, 01 Jan 1970 00:00:09 GMT"), 4000), 5000);
  });
});
