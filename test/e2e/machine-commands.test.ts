import { after } from "node:test";

import { SmolVM } from "../../src/machine/index.js";
import { ownHome } from "../machine/setting.js";
import { commandTests } from "../machine/suites/commands.js";

const home = ownHome();
after(() => home.close());

commandTests("commands", home, (options) => SmolVM.create(options));
