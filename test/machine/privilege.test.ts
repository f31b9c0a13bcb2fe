import assert from "node:assert/strict";
import { mkdtemp, mkdir, rm, stat, symlink } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { HostError } from "../../src/errors.js";
import { prepareSocketFolder, sealSocketFolder, type MachineUser } from "../../src/machine/privilege.js";
import { machineFiles } from "../../src/machine/state.js";

const root = process.geteuid?.() === 0;
const USER: MachineUser | null = root ? { uid: 65534, group: null } : null;

test("QEMU's user has its socket folder until the guest answers, and can't leave a link in it", async () => {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-privilege-"));
  const files = machineFiles(folder);
  const server = createServer();
  try {
    await prepareSocketFolder(files, USER);
    assert.equal((await stat(files.sockets)).uid, USER?.uid ?? process.geteuid?.());
    server.listen(join(files.sockets, "lane1"));
    await once(server, "listening");
    await sealSocketFolder(files, USER);
    const { uid, gid, mode } = await stat(files.sockets);
    assert.deepEqual([uid, gid, mode & 0o777], [process.geteuid?.(), process.getegid?.(), 0o700]);
    await mkdir(join(folder, "other"));
    await symlink(join(folder, "other"), join(files.sockets, "lane2"));
    const sealed = sealSocketFolder(files, USER);
    if (root)
      await assert.rejects(sealed, (error: unknown) => error instanceof HostError && /else/.test(error.message));
    else await sealed;
  } finally {
    server.close();
    await rm(folder, { recursive: true, force: true });
  }
});
