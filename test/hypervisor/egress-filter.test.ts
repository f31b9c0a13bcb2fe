import assert from "node:assert/strict";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { HostError } from "../../src/errors.js";
import { startEgressFilter } from "../../src/hypervisor/egress/start.js";
import { confinementTools } from "../../src/hypervisor/qemu/confinement-tools.js";
import { EGRESS_SOCKETS } from "../../src/hypervisor/types.js";
import { eventually, processesIn } from "../machine/setting.js";

const root = process.geteuid?.() === 0;

async function serve(path: string): Promise<{ server: Server; client: Promise<Socket> }> {
  const server = createServer();
  const client = once(server, "connection").then(([socket]) => socket as Socket);
  server.listen(path);
  await once(server, "listening");
  return { server, client };
}

/** An ARP frame as QEMU sends it: its length first. */
function framed(fill: number): Buffer {
  const frame = Buffer.alloc(64, fill);
  frame.writeUInt32BE(60);
  frame.writeUInt16BE(0x0806, 4 + 12);
  return frame;
}

test("the filter has no rights and no way to open anything, and loses no frame that came before it", async () => {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-filter-"));
  process.env["SMOLVM_HOME"] = folder;
  const machine = await mkdtemp(join(folder, "run-"));
  const [out, back] = await Promise.all([
    serve(join(machine, EGRESS_SOCKETS.out)),
    serve(join(machine, EGRESS_SOCKETS.back)),
  ]);
  const received: Buffer[] = [];
  try {
    void out.client.then((socket) => socket.write(framed(1)));
    void back.client.then((socket) => socket.on("data", (chunk: Buffer) => received.push(chunk)));
    await startEgressFilter(machine, root ? 65534 : null);
    const [pid, ...others] = processesIn(folder);
    assert.ok(pid !== undefined && others.length === 0);
    const status = await readFile(`/proc/${pid}/status`, "utf8");
    assert.match(status, /^NoNewPrivs:\s+1$/m);
    assert.match(status, /^CapEff:\s+0+$/m);
    if (root) assert.match(status, /^CapBnd:\s+0+$/m);
    assert.match(await readFile(`/proc/${pid}/limits`, "utf8"), /^Max file size\s+0\s+0/m);
    (await out.client).write(framed(2));
    await eventually("both frames", () => Buffer.concat(received).equals(Buffer.concat([framed(1), framed(2)])));
    (await out.client).destroy();
    await eventually("its end", () => processesIn(folder).length === 0);
  } finally {
    for (const { server } of [out, back]) server.close();
    for (const pid of processesIn(folder)) process.kill(pid, "SIGKILL");
    await rm(folder, { recursive: true, force: true });
  }
});

test("a filter that its own user can't run is started with root's files in reach; one that is slow is not", async (context) => {
  if (!root) return; // an ordinary user's filter is that user's in any case
  const folder = await mkdtemp(join(tmpdir(), "smolvm-filter-"));
  await chmod(folder, 0o755);
  process.env["SMOLVM_HOME"] = folder;
  const machine = await mkdtemp(join(folder, "run-"));
  const servers = await Promise.all(Object.values(EGRESS_SOCKETS).map((name) => serve(join(machine, name))));
  const node = process.execPath;
  const inNodesPlace = async (name: string, script: string): Promise<void> => {
    process.execPath = join(folder, name);
    await writeFile(process.execPath, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  };
  context.after(async () => {
    process.execPath = node;
    for (const { server } of servers) server.close();
    for (const pid of processesIn(folder)) process.kill(pid, "SIGKILL");
    await rm(folder, { recursive: true, force: true });
  });
  const forRoot = `[ "$(id -u)" = 0 ] || exit 1; echo ready; exec sleep 60`;
  await inNodesPlace("unreadable", forRoot);
  await startEgressFilter(machine, 65534);
  const users = await Promise.all(processesIn(folder).map((pid) => readFile(`/proc/${pid}/status`, "utf8")));
  assert.equal(users.length, 1);
  assert.match(users.join(), /^Uid:\s+0\b/m);
  await inNodesPlace("killed", `[ "$(id -u)" = 0 ] && echo ready; kill -9 $$`);
  await assert.rejects(startEgressFilter(machine, 65534), /ended before it was ready/);
  await inNodesPlace("slow", `[ "$(id -u)" = 0 ] && echo ready; exec sleep 60`);
  await assert.rejects(startEgressFilter(machine, 65534), /was not ready within/);
});

test("tools of the same name that know less are no use, and root starts nothing without them", async () => {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-tools-"));
  process.env["SMOLVM_HOME"] = folder;
  const path = process.env["PATH"];
  try {
    assert.notEqual((await confinementTools()).setpriv, null);
    const lesser = join(folder, "setpriv");
    await writeFile(lesser, "#!/bin/sh\necho 'unrecognized option: reuid' >&2\nexit 1\n");
    await chmod(lesser, 0o755);
    process.env["PATH"] = `${folder}:${path ?? ""}`;
    if (root) {
      await assert.rejects(confinementTools(), (error: unknown) => {
        assert.ok(error instanceof HostError);
        assert.match(error.message, /'setpriv' is needed to take root's rights/);
        assert.match(error.hint ?? "", /util-linux/);
        return true;
      });
    } else {
      assert.equal((await confinementTools()).setpriv, null);
    }
  } finally {
    process.env["PATH"] = path;
    await rm(folder, { recursive: true, force: true });
  }
});
