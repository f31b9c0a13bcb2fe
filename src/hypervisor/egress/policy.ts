import { GUEST_NETWORK } from "../types.js";

/** IPv4 ranges, as [address, prefix length], that are no place outside the host. */
const INSIDE: readonly (readonly [string, number])[] = [
  ["0.0.0.0", 8], // "this host"
  ["127.0.0.0", 8], // loopback
  ["169.254.0.0", 16], // link-local, where clouds keep their metadata service
  ["224.0.0.0", 4], // multicast
  ["240.0.0.0", 4], // reserved, and broadcast
  // Metadata services of clouds at addresses that are no link-local ones.
  ["168.63.129.16", 32], // Azure
  ["100.100.100.200", 32], // Alibaba
  ["192.0.0.192", 32], // Oracle
];

const ETHERNET_HEADER = 14;
const ETHERTYPE = { ipv4: 0x0800, arp: 0x0806 } as const;
const PROTOCOL = { icmp: 1, tcp: 6, udp: 17 } as const;
const FLAG = { syn: 0x02, ack: 0x10 } as const;
const MORE_FRAGMENTS_OR_OFFSET = 0x3fff;
const DNS_PORT = 53;
const DHCP_PORT = 67;
const BROADCAST = 0xffffffff;

/**
 * Decides which of a guest's Ethernet frames may reach QEMU's user network when the machine may reach outside. That network
 * connects to whatever address a packet names, in the host's own name: 10.0.2.2 is the host's loopback there, 10.0.2.3 is
 * the host's resolver with all its ports, and 127.0.0.1 is taken as it stands. So what may not be named is dropped here.
 *
 * @param hostAddresses the host's own IPv4 addresses: services on them are the host's as much as those on its loopback.
 */
export function mayLeave(frame: Uint8Array, hostAddresses: ReadonlySet<number>): boolean {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (frame.byteLength < ETHERNET_HEADER) return false;
  const type = view.getUint16(12);
  if (type === ETHERTYPE.arp) return true; // answered by the user network itself
  if (type !== ETHERTYPE.ipv4 || frame.byteLength < ETHERNET_HEADER + 20) return false;
  const first = view.getUint8(ETHERNET_HEADER);
  const headerLength = (first & 0x0f) * 4;
  const totalLength = view.getUint16(ETHERNET_HEADER + 2);
  if (first >> 4 !== 4 || headerLength < 20 || totalLength < headerLength) return false;
  if (frame.byteLength < ETHERNET_HEADER + totalLength) return false;

  const destination = view.getUint32(ETHERNET_HEADER + 16);
  if (isOutside(destination, hostAddresses)) return true;

  // Inside, a packet is judged by its ports and flags, so it must be whole.
  if ((view.getUint16(ETHERNET_HEADER + 6) & MORE_FRAGMENTS_OR_OFFSET) !== 0) return false;
  const protocol = view.getUint8(ETHERNET_HEADER + 9);
  const payload = ETHERNET_HEADER + headerLength;
  const payloadLength = totalLength - headerLength;
  if (protocol === PROTOCOL.udp) {
    if (payloadLength < 8) return false;
    const port = view.getUint16(payload + 2);
    return (destination === DNS && port === DNS_PORT) || (destination === BROADCAST && port === DHCP_PORT);
  }
  if (protocol !== PROTOCOL.tcp || payloadLength < 20) return false;
  if (destination === DNS && view.getUint16(payload + 2) === DNS_PORT) return true;
  // Answers on connections that came in through a forwarded port. Nothing new begins without a bare SYN.
  const flags = view.getUint8(payload + 13);
  return (flags & FLAG.syn) === 0 || (flags & FLAG.ack) !== 0;
}

function isOutside(address: number, hostAddresses: ReadonlySet<number>): boolean {
  return !RANGES.some(([range, mask]) => (address & mask) >>> 0 === range) && !hostAddresses.has(address);
}

/** Dotted decimal to a number; the addresses come from constants and from the operating system. */
export function ipv4Number(address: string): number {
  return address.split(".").reduce((number, part) => number * 256 + Number(part), 0);
}

const DNS = ipv4Number(GUEST_NETWORK.dns);
const RANGES = [...INSIDE, [GUEST_NETWORK.gateway, GUEST_NETWORK.prefix] as const].map(([address, prefix]) => {
  const mask = (0xffffffff << (32 - prefix)) >>> 0;
  return [(ipv4Number(address) & mask) >>> 0, mask] as const;
});
