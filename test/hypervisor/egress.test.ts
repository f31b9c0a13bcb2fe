import assert from "node:assert/strict";
import { test } from "node:test";

import fc from "fast-check";

import { ipv4Number, mayLeave } from "../../src/hypervisor/egress/policy.js";

const HOST = new Set([ipv4Number("192.168.7.7"), ipv4Number("172.17.0.1")]);
const SYN = 0x02;
const ACK = 0x10;

interface Packet {
  readonly to: string;
  readonly protocol?: number;
  readonly port?: number;
  readonly flags?: number;
  /** The flags and offset field of a fragment. */
  readonly fragment?: number;
  readonly headerWords?: number;
}

function frame({ to, protocol = 6, port = 80, flags = SYN, fragment = 0, headerWords = 5 }: Packet): Buffer {
  const header = headerWords * 4;
  const payload = protocol === 6 ? 20 : 8;
  const bytes = Buffer.alloc(14 + header + payload);
  bytes.writeUInt16BE(0x0800, 12);
  bytes[14] = 0x40 | headerWords;
  bytes.writeUInt16BE(header + payload, 16);
  bytes.writeUInt16BE(fragment, 20);
  bytes[23] = protocol;
  bytes.writeUInt32BE(ipv4Number("10.0.2.15"), 26);
  bytes.writeUInt32BE(ipv4Number(to), 30);
  bytes.writeUInt16BE(port, 14 + header + 2);
  if (protocol === 6) bytes[14 + header + 13] = flags;
  return bytes;
}

const leaves = (packet: Packet): boolean => mayLeave(frame(packet), HOST);

test("what goes outside may leave, by any protocol and in fragments", () => {
  for (const to of ["1.1.1.1", "192.168.7.8", "10.0.3.1", "172.16.0.1", "223.255.255.255"]) {
    for (const protocol of [1, 6, 17]) assert.equal(leaves({ to, protocol }), true, `${to} ${protocol}`);
    assert.equal(leaves({ to, fragment: 0x2000 }), true);
  }
});

test("no connection begins to the host, by whatever name", () => {
  const names = [
    "10.0.2.2",
    "10.0.2.3",
    "10.0.2.77",
    "10.0.2.255",
    "127.0.0.1",
    "127.255.1.1",
    "0.0.0.0",
    "192.168.7.7",
  ];
  const metadata = ["168.63.129.16", "100.100.100.200", "192.0.0.192"];
  const others = [...metadata, "172.17.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "240.0.0.1"];
  for (const to of [...names, ...others]) {
    assert.equal(leaves({ to }), false, `${to} SYN`);
    assert.equal(leaves({ to, flags: SYN | 0x20 }), false, `${to} SYN and URG`);
    assert.equal(leaves({ to, protocol: 17 }), false, `${to} UDP`);
    assert.equal(leaves({ to, protocol: 1 }), false, `${to} ICMP`);
    assert.equal(leaves({ to, protocol: 132 }), false, `${to} SCTP`);
    assert.equal(leaves({ to, headerWords: 15 }), false, `${to} with options`);
    assert.equal(leaves({ to, flags: ACK, fragment: 0x2000 }), false, `${to} first fragment`);
    assert.equal(leaves({ to, flags: ACK, fragment: 0x0001 }), false, `${to} later fragment`);
  }
});

test("answers to what came in, name resolution and an address by DHCP are let through", () => {
  assert.equal(leaves({ to: "10.0.2.2", flags: SYN | ACK }), true);
  assert.equal(leaves({ to: "10.0.2.2", flags: ACK }), true);
  assert.equal(leaves({ to: "10.0.2.3", protocol: 17, port: 53 }), true);
  assert.equal(leaves({ to: "10.0.2.3", protocol: 6, port: 53 }), true);
  assert.equal(leaves({ to: "10.0.2.3", protocol: 17, port: 54 }), false);
  assert.equal(leaves({ to: "10.0.2.2", protocol: 17, port: 53 }), false);
  assert.equal(leaves({ to: "255.255.255.255", protocol: 17, port: 67 }), true);
  const arp = Buffer.alloc(42);
  arp.writeUInt16BE(0x0806, 12);
  assert.equal(mayLeave(arp, HOST), true);
});

test("IPv6, VLAN tags and anything else that is no whole IPv4 packet stay", () => {
  for (const type of [0x86dd, 0x8100, 0x88a8, 0x8847, 0x0000]) {
    const other = frame({ to: "1.1.1.1" });
    other.writeUInt16BE(type, 12);
    assert.equal(mayLeave(other, HOST), false, type.toString(16));
  }
  const whole = frame({ to: "1.1.1.1" });
  for (let length = 0; length < whole.length; length++) assert.equal(mayLeave(whole.subarray(0, length), HOST), false);
  const version6 = frame({ to: "1.1.1.1" });
  version6[14] = 0x65;
  assert.equal(mayLeave(version6, HOST), false);
  const shortHeader = frame({ to: "1.1.1.1" });
  shortHeader[14] = 0x44;
  assert.equal(mayLeave(shortHeader, HOST), false);
});

test("no frame of any bytes makes it fail, and none that begins something reaches the host's loopback", (context) => {
  const runs = 20_000;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.boolean(), (bytes, shape) => {
      if (shape && bytes.length >= 34) {
        bytes.set([0x08, 0x00, 0x45], 12);
        bytes.set([127, 0, 0, 1], 30);
      }
      const allowed = mayLeave(bytes, HOST);
      if (!allowed || !shape || bytes.length < 34) return;
      const tcp = bytes[23] === 6;
      assert.ok(tcp && ((bytes[34 + 13] ?? 0) & (SYN | ACK)) !== SYN);
    }),
    { numRuns: runs },
  );
  context.diagnostic(`${runs} frames`);
});
