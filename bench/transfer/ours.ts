/** What smolvm does, as a process of its own: URL, digest (or "-"), partial file, final file. Prints seconds and bytes fetched. */
import { renameSync } from "node:fs";

import { transfer } from "../../src/images/fetch/index.js";

const [url = "", digest = "-", partial = "", path = ""] = process.argv.slice(2);
const began = performance.now();
const result = await transfer({ urls: [url], digest: digest === "-" ? null : digest, partial });
renameSync(result.path, path);
console.log(((performance.now() - began) / 1000).toFixed(3), result.fetchedBytes, result.extents.length);
