// Machines whose QEMU is only a process and a socket, and whose guest says no more than that it is there.
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";

import { laneSocket } from "../../src/hypervisor/index.js";
import { SmolVM } from "../../src/machine/index.js";
import { claimFolder, type MachineFiles, type MachineState } from "../../src/machine/state.js";
import { ForgedGuest } from "../guest/forged.js";
import { eventually } from "./setting.js";
import { run, standIn, state } from "./stand-in.js";

export interface SilentQemu {
  readonly run: MachineState["run"];
  /** Makes its sockets. */
  readonly serve: (files: MachineFiles) => Promise<void>;
  /** Closes its sockets. */
  readonly hangUp: () => void;
  /** Ends it, and with it the lane. */
  readonly die: () => Promise<void>;
}

export async function silentQemu(t: TestContext): Promise<SilentQemu> {
  const qemu = await standIn();
  const sockets = new Set<Socket>();
  let server: Server | undefined;
  const ended = once(qemu, "exit");
  const hangUp = (): void => {
    for (const socket of sockets) socket.destroy();
    server?.close();
  };
  const die = async (): Promise<void> => {
    qemu.kill("SIGKILL");
    await ended;
    hangUp();
  };
  t.after(die);
  return {
    run: run(qemu.identity),
    hangUp,
    die,
    async serve(files) {
      server = createServer((socket) => {
        sockets.add(socket);
        socket.on("error", () => undefined); // the machine goes away in the middle of it
        const guest = new ForgedGuest();
        socket.pipe(guest).pipe(socket);
      });
      await mkdir(files.sockets);
      server.listen(join(files.sockets, laneSocket(1)));
      await once(server, "listening");
    },
  };
}

/** A running machine, made by another program, whose guest greets and then never answers anything. */
export async function silentMachine(
  t: TestContext,
): Promise<Pick<SilentQemu, "hangUp" | "die"> & { readonly vm: SmolVM; readonly files: MachineFiles }> {
  const { serve, hangUp, die, ...qemu } = await silentQemu(t);
  const files = await claimFolder(state({ detached: true, owner: null, run: qemu.run }));
  await serve(files);
  const vm = await SmolVM.fromId("vm-test");
  // The next test's machine has the same name and birth: nothing may be on its way to this one any more.
  t.after(async () => {
    await eventually("its end is noticed", () => vm.status !== "running", 30_000);
    await vm.refresh();
  });
  return { vm, files, hangUp, die };
}
