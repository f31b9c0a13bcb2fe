import { randomBytes } from "node:crypto";

import { CommandExecutionUnavailableError } from "../errors.js";
import type { GuestConfiguration, GuestConnection } from "../guest/index.js";
import { GUEST_NETWORK } from "../hypervisor/index.js";
import type { RootfsType } from "./rootfs.js";
import type { MachineState } from "./state.js";

const ENTROPY_BYTES = 64;

/** What a guest is told when it has booted. */
export function guestConfiguration(state: MachineState): GuestConfiguration {
  const { address, prefix, gateway, dns } = GUEST_NETWORK;
  const open = state.network === "open";
  return {
    hostname: state.vmId,
    env: state.env,
    // Without a way out there is nothing to route to, and a name server would only be waited for.
    network:
      state.network === "none"
        ? null
        : { address: `${address}/${prefix}`, gateway: open ? gateway : null, dns: open ? dns : null },
    clockMs: Date.now(),
    entropy: randomBytes(ENTROPY_BYTES),
    mounts: [],
  };
}

/** The tool that makes a mounted file system fill its disk, for those that the agent doesn't grow itself. */
const GROW: Partial<Record<RootfsType, string>> = {
  xfs: "command -v xfs_growfs >/dev/null && exec xfs_growfs /",
  btrfs: "command -v btrfs >/dev/null && exec btrfs filesystem resize max /",
};

/**
 * Grows the root file system into a larger disk: an ext4 where its
 * layout allows, others where the image has the tool for it. Else the space stays unused.
 */
export async function growRootFileSystem(
  connection: GuestConnection,
  type: RootfsType,
  signal: AbortSignal,
): Promise<void> {
  if (type === "ext4") {
    await connection.growRoot({ signal }).catch((error: unknown) => {
      // An old ext2 has no room for it, a read-only one may not: such a machine works, at its image's size.
      if (!(error instanceof CommandExecutionUnavailableError) || error.details["errno"] === undefined) throw error;
    });
    return;
  }
  const command = GROW[type];
  if (command === undefined) return;
  const child = connection.exec({ command });
  const kill = (): void => child.killTree();
  signal.addEventListener("abort", kill, { once: true });
  try {
    child.stdout.resume();
    child.stderr.resume();
    await child.exit;
  } finally {
    signal.removeEventListener("abort", kill);
  }
}

/** The guest's address, or null in a machine without a network. */
export function guestAddress(state: Pick<MachineState, "network">): string | null {
  return state.network === "none" ? null : GUEST_NETWORK.address;
}
