/**
 * What smolvm does, as a process of its own: URL, digest (or "-"), partial file, final file, and whether the bytes are to be
 * "durable", as they always are for a caller, or "quick". `BENCH_CA` is a certificate to trust.
 */
import { readFileSync, renameSync } from "node:fs";

import { DEFAULT_POLICY } from "../../src/images/fetch/policy.js";
import { transferWith } from "../../src/images/fetch/transfer.js";

const [url = "", digest = "-", partial = "", path = "", how = "durable"] = process.argv.slice(2);
const ca = process.env["BENCH_CA"];
const policy = {
  ...DEFAULT_POLICY,
  durable: how !== "quick",
  ca: ca === undefined ? undefined : readFileSync(ca, "utf8"),
};
const result = await transferWith({ urls: [url], digest: digest === "-" ? null : digest, partial }, policy);
renameSync(result.path, path);
