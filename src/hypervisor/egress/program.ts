/**
 * The egress filter: a process beside a machine with "open" networking, with as few rights as its user can be given. QEMU sends it every frame of the
 * guest; those that may leave are sent back. It ends with QEMU, and while it is not there nothing leaves.
 */
import { networkInterfaces } from "node:os";
import { Socket } from "node:net";

import { ipv4Number, mayLeave } from "./policy.js";

/** QEMU's framing (net/filter-mirror.c): 32-bit big-endian length, then the frame. */
const LENGTH_SIZE = 4;
/** The largest frame that QEMU's network layer carries (NET_BUFSIZE). */
const FRAME_LIMIT = 4096 + 65536;
/** Addresses come and go with networks; a check costs microseconds. */
const ADDRESS_CHECK_MS = 2000;

function hostAddresses(): ReadonlySet<number> {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return new Set(all.filter(({ family }) => family === "IPv4").map(({ address }) => ipv4Number(address)));
}

function filterFrames(out: Socket, back: Socket): void {
  let addresses = hostAddresses();
  setInterval(() => (addresses = hostAddresses()), ADDRESS_CHECK_MS).unref();
  let rest: Buffer = Buffer.alloc(0);
  out.on("data", (chunk: Buffer) => {
    const data = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const allowed: Buffer[] = [];
    let at = 0;
    while (data.length - at >= LENGTH_SIZE) {
      const size = data.readUInt32BE(at);
      if (size > FRAME_LIMIT) process.exit(1);
      const end = at + LENGTH_SIZE + size;
      if (end > data.length) break;
      if (mayLeave(data.subarray(at + LENGTH_SIZE, end), addresses)) allowed.push(data.subarray(at, end));
      at = end;
    }
    rest = data.subarray(at);
    if (allowed.length > 0 && !back.write(Buffer.concat(allowed))) {
      out.pause();
      back.once("drain", () => out.resume());
    }
  });
}

/** The connections to QEMU are inherited: their folder is not open to this process's user. */
const [out, back] = [new Socket({ fd: 3 }), new Socket({ fd: 4 })];
for (const socket of [out, back]) {
  socket.on("error", () => process.exit(0)); // QEMU has ended, and with it this process's purpose
  socket.on("close", () => process.exit(0));
}
filterFrames(out, back);
process.stdout.write("ready\n");
