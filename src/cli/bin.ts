#!/usr/bin/env node
import { exit } from "./hang-up.js";
import { main } from "./main.js";

// An explicit end, so that nothing which a library left open can keep the shell waiting.
exit(await main(process.argv.slice(2)));
