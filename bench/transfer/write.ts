/** Writes the bytes of a file to another one in pieces as they come from a network: as a transfer does, or densely. Both fsync. */
import { closeSync, fdatasyncSync, openSync, readSync, statSync, writeSync } from "node:fs";

import { Appender } from "../../src/images/fetch/appender.js";
import { PartialFile } from "../../src/images/fetch/partial.js";

const PIECE = 256 * 1024;
const [how = "", from = "", to = ""] = process.argv.slice(2);
const total = statSync(from).size;
const source = openSync(from, "r");
const buffer = Buffer.allocUnsafeSlow(PIECE);

function* pieces(): Generator<Buffer> {
  for (let length; (length = readSync(source, buffer)) > 0;) yield buffer.subarray(0, length);
}

if (how === "sparse") {
  const file = await PartialFile.open(to, null);
  file.restart({ url: "http://bench/", total, validator: null });
  const appender = new Appender(file, 0);
  for (const piece of pieces()) appender.push(piece);
  appender.end();
  await file.sync();
  await file.close();
} else {
  const target = openSync(to, "w");
  for (const piece of pieces()) for (let at = 0; at < piece.length;) at += writeSync(target, piece, at);
  fdatasyncSync(target);
  closeSync(target);
}
