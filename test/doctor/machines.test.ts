import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { machines } from "../../src/doctor/machines.js";
import { claimFolder } from "../../src/machine/state.js";
import { goneIdentity, homeWithoutMachines, state } from "../machine/stand-in.js";

const home = homeWithoutMachines();

test("what is left of machines is counted, and a lock that somebody has left is none of them", async () => {
  const { signal } = new AbortController();
  await claimFolder(state());
  await mkdir(join(home, "machines", ".lock-stale"));
  assert.deepEqual(await machines.run(signal), { status: "ok", detail: "1 here, 1 running" });
  await claimFolder(state({ vmId: "left", owner: await goneIdentity() }));
  await mkdir(join(home, "machines", ".trash-0000000000000000"));
  assert.deepEqual(await machines.run(signal), {
    status: "ok",
    detail: "1 here, 1 running, 2 left over, cleared away",
  });
});
