import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import { packageRoot } from "../../src/host/package.js";
import { SmolVM } from "../../src/machine/index.js";
import { ownHome, testImage } from "../machine/setting.js";

const home = ownHome();
await testImage();
after(() => home.close());

const LAN = Object.values(networkInterfaces())
  .flatMap((list) => list ?? [])
  .filter(({ family, internal }) => family === "IPv4" && !internal)
  .map(({ address }) => address);
const TARGETS = ["10.0.2.2", "10.0.2.3", "127.0.0.1", "127.8.8.8", "0.0.0.0", "255.255.255.255", "10.0.2.255", ...LAN];

for (const network of ["restricted", "open"] as const) {
  test(`${network}: frames that a guest makes up itself do not reach the host`, async (context) => {
    const program = join(home.folder, `raw-packets-${network}`);
    const source = join(packageRoot(), "test", "fixtures", "raw-packets.c");
    await promisify(execFile)("gcc", ["-static", "-Os", "-o", program, source]);
    // One for each target, so that it is known which one led here.
    const reached = new Set<string>();
    const servers = await Promise.all(
      TARGETS.map(async (target) => {
        const server = createSocket("udp4").on("message", () => reached.add(target));
        server.bind(0, "0.0.0.0");
        await once(server, "listening");
        return server;
      }),
    );
    const vm = await SmolVM.create({ network });
    try {
      await vm.files.upload(program, "/raw-packets");
      const ports = servers.map((server) => String(server.address().port));
      const sent = await vm.run(["/raw-packets", ...TARGETS.flatMap((target, index) => [target, ports[index] ?? ""])]);
      // The gateway has answered the first of them, so frames of this kind do leave the machine.
      assert.equal(sent.stdout, "sent\n", sent.stderr);
      await sleep(500);
      for (const target of TARGETS) {
        context.diagnostic(
          `${network.padEnd(10)} | raw, to ${target.padEnd(15)} | ${reached.has(target) ? "REACHED" : "no"}`,
        );
      }
      assert.deepEqual([...reached], []);
    } finally {
      for (const server of servers) server.close();
      await vm.delete();
    }
  });
}
