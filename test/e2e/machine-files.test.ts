import { after } from "node:test";

import { SmolVM } from "../../src/machine/index.js";
import { ownHome } from "../machine/setting.js";
import { fileTests } from "../machine/suites/files.js";

const home = ownHome();
after(() => home.close());

fileTests("files, ports and the console", home, (options) => SmolVM.create(options));
