import { createHash } from "node:crypto";
import { isIPv4 } from "node:net";

import { ValidationError } from "../errors.js";
import { PayloadWriter } from "./payload.js";
import type { GuestConfiguration, GuestNetwork } from "./types.js";

/** The payload of `configure`, without its operation number. */
export function encodeConfiguration(c: GuestConfiguration): Buffer {
  const payload = new PayloadWriter();
  payload.string(checkedHostname(c.hostname), "hostname");
  payload.string(c.hostname === null ? "" : machineId(c.hostname), "machine id");
  payload.u64(BigInt(Math.round(c.clockMs ?? 0)));
  payload.bytes(c.entropy ?? new Uint8Array(0));
  encodeNetwork(payload, c.network);
  encodeEnvironment(payload, c.env);
  payload.u32(c.mounts.length);
  for (const mount of c.mounts) {
    payload.string(mount.source, "mount source").string(mount.target, "mount target").string(mount.type, "mount type");
    payload.u8(mount.readOnly === true ? 1 : 0);
  }
  return payload.finish("The configuration");
}

/** For /etc/machine-id: the same each time a machine starts, another in each machine made from one image. */
function machineId(hostname: string): string {
  return createHash("sha256").update(`smolvm machine ${hostname}`).digest("hex").slice(0, 32);
}

function checkedHostname(name: string | null): string {
  if (name === null) return "";
  if (/^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/.test(name)) return name;
  throw new ValidationError(
    `hostname must be 1 to 64 letters, digits, dots, hyphens or underscores, not ${JSON.stringify(name)}.`,
  );
}

function encodeNetwork(payload: PayloadWriter, network: GuestNetwork | null): void {
  const [address = "", prefix = ""] = (network?.address ?? "/0").split("/");
  if (network !== null && (!isIPv4(address) || !/^([0-9]|[12][0-9]|3[0-2])$/.test(prefix))) {
    throw new ValidationError(`network.address must be like "10.0.2.15/24", not ${JSON.stringify(network.address)}.`);
  }
  for (const [field, value] of [
    ["gateway", network?.gateway],
    ["dns", network?.dns],
  ] as const) {
    if (value !== null && value !== undefined && !isIPv4(value)) {
      throw new ValidationError(`network.${field} must be an IPv4 address, not ${JSON.stringify(value)}.`);
    }
  }
  payload.string(address, "address").u8(Number(prefix));
  payload.string(network?.gateway ?? "", "gateway").string(network?.dns ?? "", "dns");
}

const MAX_VARIABLES = 4096;

export function encodeEnvironment(payload: PayloadWriter, env: Readonly<Record<string, string>>): PayloadWriter {
  const entries = Object.entries(env);
  if (entries.length > MAX_VARIABLES) {
    throw new ValidationError(`env has ${entries.length} variables, where ${MAX_VARIABLES} are the most.`);
  }
  payload.u32(entries.length);
  for (const [name, value] of entries) {
    if (name === "" || name.includes("=")) {
      throw new ValidationError(
        `env has a name that can't be one: ${JSON.stringify(name)}. It must not be empty or hold "=".`,
      );
    }
    payload.string(`${name}=${value}`, `env.${name}`);
  }
  return payload;
}
