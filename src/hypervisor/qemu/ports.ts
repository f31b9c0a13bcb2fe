import { HostError, ValidationError } from "../../errors.js";
import { GUEST_NETWORK, QMP_SOCKET } from "../types.js";
import { withQmp, type Qmp } from "./qmp.js";

const TIMEOUT_MS = 5000;

/**
 * Forwards a TCP port of the host's 127.0.0.1 to the guest and gives the host's port. Port 0 lets the host's kernel choose
 * a free one while it binds it, so nobody can take it in between.
 *
 * @throws HostError HOST_PORT_IN_USE when the port is taken or may not be bound.
 */
export function forwardPort(folder: string, guestPort: number, hostPort: number): Promise<number> {
  return withQmp({ folder, name: QMP_SOCKET }, TIMEOUT_MS, async (qmp) => {
    const before = hostPort === 0 ? await forwardedPorts(qmp) : [];
    const answer = await monitor(
      qmp,
      `hostfwd_add net0 tcp:127.0.0.1:${hostPort}-${GUEST_NETWORK.address}:${guestPort}`,
    );
    if (answer !== "") {
      // QEMU gives no reason: that somebody listens there is by far the most frequent one.
      const why = hostPort > 0 && hostPort < 1024 ? "is in use, or needs privileges" : "is in use";
      throw new HostError("HOST_PORT_IN_USE", `Port ${hostPort} of 127.0.0.1 ${why}.`, {
        hint: "Leave the host port out to get a free one.",
        details: { hostPort, guestPort, answer },
      });
    }
    if (hostPort !== 0) return hostPort;
    // One conversation at a time: the only new one is ours.
    const added = (await forwardedPorts(qmp)).find(
      (port) => port.guest === guestPort && !before.some((other) => other.host === port.host),
    );
    if (added === undefined) {
      throw new HostError("HOST_IO", `QEMU forwarded a port to ${guestPort} and doesn't say which.`, {
        hint: "Name a host port yourself.",
        details: { guestPort },
      });
    }
    return added.host;
  });
}

/** @throws ValidationError when the port is not forwarded. */
export function unforwardPort(folder: string, hostPort: number): Promise<void> {
  return withQmp({ folder, name: QMP_SOCKET }, TIMEOUT_MS, async (qmp) => {
    const answer = await monitor(qmp, `hostfwd_remove net0 tcp:127.0.0.1:${hostPort}`);
    if (!/removed/.test(answer)) {
      throw new ValidationError(`Port ${hostPort} of 127.0.0.1 is not forwarded to this machine.`, {
        details: { hostPort, answer },
      });
    }
  });
}

interface Forwarded {
  readonly host: number;
  readonly guest: number;
}

async function forwardedPorts(qmp: Qmp): Promise<Forwarded[]> {
  const listing = await monitor(qmp, "info usernet");
  const rows = listing.matchAll(/TCP\[HOST_FORWARD\]\s+\S+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)/g);
  return [...rows].map((row) => ({ host: Number(row[1]), guest: Number(row[2]) }));
}

/** QMP itself has no commands for forwarded ports; QEMU's human monitor, which answers in text, has. */
async function monitor(qmp: Qmp, line: string): Promise<string> {
  const answer = await qmp.execute("human-monitor-command", { "command-line": line });
  return typeof answer === "string" ? answer.trim() : "";
}
