// Copies a file in one of several ways, as a process of its own: how, from, to, and where the data is as JSON or "-".
import { copyFileSync } from "node:fs";

import { copySparse, type Extents } from "../../src/images/store/index.js";

const [how = "", from = "", to = "", extents = "-"] = process.argv.slice(2);
if (how === "copyFile") copyFileSync(from, to);
else await copySparse(from, to, extents === "-" ? {} : { extents: JSON.parse(extents) as Extents });
