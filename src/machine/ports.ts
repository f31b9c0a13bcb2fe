import { VMStateError } from "../errors.js";
import { forwardPort, unforwardPort } from "../hypervisor/index.js";
import type { MachineFiles, MachineState } from "./state.js";

/** @throws VMStateError for a machine without a network, HostError HOST_PORT_IN_USE */
export async function addPort(files: MachineFiles, state: MachineState, guestPort: number, hostPort: number) {
  if (state.network === "none") {
    throw new VMStateError(`The machine '${state.vmId}' has no network, so no port of it can be forwarded.`, {
      hint: 'Create it with network "restricted".',
    });
  }
  const value = await forwardPort(files.sockets, guestPort, hostPort);
  return { state: { ...state, ports: [...state.ports, { guestPort, hostPort: value }] }, value };
}

/** @throws ValidationError when the port is not forwarded. */
export async function removePort(files: MachineFiles, state: MachineState, hostPort: number) {
  await unforwardPort(files.sockets, hostPort);
  return { state: { ...state, ports: state.ports.filter((port) => port.hostPort !== hostPort) }, value: undefined };
}
