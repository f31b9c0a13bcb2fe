#!/usr/bin/env node
import { main } from "./main.js";

// An explicit end, so that nothing which a library left open can keep the shell waiting.
process.exit(await main(process.argv.slice(2)));
