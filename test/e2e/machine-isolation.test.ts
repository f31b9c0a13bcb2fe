import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync, statSync } from "node:fs";
import { lookup } from "node:dns/promises";
import { readdir, readFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { after, test, type TestContext } from "node:test";

import { VMStateError } from "../../src/errors.js";
import { SmolVM } from "../../src/machine/index.js";
import { ownHome, testImage } from "../machine/setting.js";

const home = ownHome();
await testImage();
after(() => home.close());

/** Two servers of this host for each probe, which a guest must not reach: they note who reached them. */
async function hostServers(names: readonly string[]) {
  const reached = new Set<string>();
  const open = await Promise.all(
    names.map(async (name) => {
      const tcp = createServer((socket) => {
        reached.add(name);
        socket.on("error", () => undefined).end("THE HOST");
      });
      const udp = createSocket({ type: "udp4" });
      udp.on("message", () => reached.add(name));
      tcp.listen(0, "::"); // all addresses, of both families
      udp.bind(0, "0.0.0.0");
      await Promise.all([once(tcp, "listening"), once(udp, "listening")]);
      return { name, tcp, udp };
    }),
  );
  return {
    reached,
    ports: new Map(
      open.map(({ name, tcp, udp }) => [name, { tcp: (tcp.address() as AddressInfo).port, udp: udp.address().port }]),
    ),
    close() {
      for (const { tcp, udp } of open) {
        tcp.close();
        udp.close();
      }
    },
  };
}

const LAN =
  Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ family, internal }) => family === "IPv4" && !internal)?.address ?? "192.168.0.1";

interface Ports {
  readonly tcp: number;
  readonly udp: number;
  /** A port of the host's loopback that leads to the guest. */
  readonly forwarded: number;
}

const tcpTo = (address: string, port: number): string => `echo hi | timeout 3 nc ${address} ${port}`;
/** BusyBox's nc has no UDP; a TFTP request is a datagram to any port. */
const udpTo = (address: string, port: number): string => `timeout 3 tftp -g -r x -l /tmp/x ${address} ${port}`;

/** What a guest with all rights can do to its own network, so that it sends what hosts usually don't. */
const TAMPER = `
  echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
  ip addr del 127.0.0.1/8 dev lo
  ip route add 127.0.0.0/8 via 10.0.2.2 dev eth0 src 10.0.2.15
  ip route add default via 10.0.2.2 dev eth0
  ip -6 addr add fec0::15/64 dev eth0
  ip -6 route add ::1/128 dev eth0
  sleep 2; true`;

/** Ways to the host. */
const PROBES: readonly (readonly [name: string, (ports: Ports) => string])[] = [
  ["the gateway, TCP (the host's loopback)", ({ tcp }) => tcpTo("10.0.2.2", tcp)],
  ["the gateway, UDP", ({ udp }) => udpTo("10.0.2.2", udp)],
  ["the resolver's address, TCP", ({ tcp }) => tcpTo("10.0.2.3", tcp)],
  ["the resolver's address, UDP", ({ udp }) => udpTo("10.0.2.3", udp)],
  ["another address of the guest's network", ({ tcp }) => tcpTo("10.0.2.77", tcp)],
  ["127.0.0.1 sent out over the network, TCP", ({ tcp }) => tcpTo("127.0.0.1", tcp)],
  ["127.0.0.1 sent out over the network, UDP", ({ udp }) => udpTo("127.0.0.1", udp)],
  ["127.8.8.8 sent out over the network, TCP", ({ tcp }) => tcpTo("127.8.8.8", tcp)],
  ["the host's LAN address, TCP", ({ tcp }) => tcpTo(LAN, tcp)],
  ["the host's LAN address, UDP", ({ udp }) => udpTo(LAN, udp)],
  ["0.0.0.0, TCP", ({ tcp }) => tcpTo("0.0.0.0", tcp)],
  ["broadcast, UDP", ({ udp }) => udpTo("255.255.255.255", udp)],
  ["the metadata address, TCP", ({ tcp }) => tcpTo("169.254.169.254", tcp)],
  ["IPv6: the gateway", ({ tcp }) => tcpTo("fec0::2", tcp)],
  ["IPv6: the host's loopback", ({ tcp }) => tcpTo("::1", tcp)],
];
/** Last, as the guest has no way back from it. */
const OTHER_SOURCE = "from another source address";
/** Not a server of the host but the guest's own, by way of the host's loopback. */
const BY_FORWARDED_PORT = "the gateway, at a forwarded port";

async function probeAll(context: TestContext, network: "restricted" | "open" | "none"): Promise<void> {
  const servers = await hostServers([...PROBES.map(([name]) => name), OTHER_SOURCE]);
  const vm = await SmolVM.create({ network });
  try {
    let forwarded = 1;
    if (network !== "none") {
      forwarded = await vm.exposeLocal(80);
      // The way in works, so the network is up and the probes below say something.
      void vm.run("while :; do echo from the guest | nc -l -p 80; done").catch(() => undefined);
      assert.equal(await read(forwarded), "from the guest\n");
    }
    await vm.run(TAMPER);
    const looped = await vm.run(tcpTo("10.0.2.2", forwarded));
    if (looped.stdout !== "") servers.reached.add(BY_FORWARDED_PORT);
    await Promise.all(
      PROBES.map(([name, command]) => {
        const ports = servers.ports.get(name);
        assert.ok(ports);
        return vm.run(command({ ...ports, forwarded }), { timeoutMs: 30_000 });
      }),
    );
    const last = servers.ports.get(OTHER_SOURCE);
    assert.ok(last);
    const names = await vm.run("timeout 10 nslookup localhost.example 10.0.2.3", { timeoutMs: 30_000 });
    await vm.run(`ip addr flush dev eth0; ip addr add 10.0.2.88/24 dev eth0; ${tcpTo("10.0.2.2", last.tcp)}`);
    for (const name of [...PROBES.map(([probe]) => probe), BY_FORWARDED_PORT, OTHER_SOURCE]) {
      context.diagnostic(
        `${network.padEnd(10)} | ${name.padEnd(42)} | ${servers.reached.has(name) ? "REACHED" : "no"}`,
      );
    }
    assert.deepEqual([...servers.reached], []);
    const answered = /NXDOMAIN|can't find|Name:/.test(names.stdout + names.stderr);
    context.diagnostic(`${network.padEnd(10)} | ${"names are resolved".padEnd(42)} | ${answered ? "yes" : "no"}`);
    if (network !== "open") assert.equal(answered, false, names.stdout);
  } finally {
    servers.close();
    await vm.delete();
  }
}

/** What the guest's server at a forwarded port says; it may not listen yet. */
async function read(port: number): Promise<string> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    socket.on("data", (chunk) => (text += chunk.toString())).on("error", () => undefined);
    await new Promise((resolve) => socket.once("close", resolve));
    if (text !== "") return text;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return "";
}

test("restricted: a guest has no way out, not even to the host", (context) => probeAll(context, "restricted"));

test("open: a guest reaches outside, but nothing of the host", (context) => probeAll(context, "open"));

test("none: a guest has no network at all", async (context) => {
  await probeAll(context, "none");
  const vm = await SmolVM.create({ network: "none" });
  assert.equal((await vm.run("ls /sys/class/net")).output, "lo");
  assert.throws(() => vm.getIp(), VMStateError);
  await assert.rejects(vm.exposeLocal(80), VMStateError);
  await vm.delete();
});

test("open really is open: a server that this host can reach outside is reached from the guest", async (context) => {
  const outside = await outsideServer();
  if (outside === null) {
    context.diagnostic("this host reaches no server outside, so nothing was tried");
    return;
  }
  const request = `printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' | timeout 10 nc ${outside} 80`;
  for (const [network, reaches] of [
    ["open", true],
    ["restricted", false],
  ] as const) {
    const vm = await SmolVM.create({ network });
    await vm.run("ip route add default via 10.0.2.2 dev eth0");
    const { stdout } = await vm.run(request, { timeoutMs: 20_000 });
    context.diagnostic(`${network}: a server outside is ${stdout.startsWith("HTTP/") ? "reached" : "not reached"}`);
    assert.equal(stdout.startsWith("HTTP/"), reaches);
    await vm.delete();
  }
});

/** The address of this host's package mirror, which is the one server that such a host is sure to have been told of. */
async function outsideServer(): Promise<string | null> {
  const folder = "/etc/apt/sources.list.d";
  const files = ["/etc/apt/sources.list", ...(await readdir(folder).catch(() => [])).map((name) => join(folder, name))];
  const texts = await Promise.all(files.map((file) => readFile(file, "utf8").catch(() => "")));
  const name = /^[^#\n]*https?:\/\/([a-z0-9.-]+)/m.exec(texts.join("\n"))?.[1];
  if (name === undefined) return null;
  try {
    const { address } = await lookup(name, 4);
    const socket = connect({ port: 80, host: address, timeout: 3000 });
    await once(socket, "connect");
    socket.destroy();
    return address;
  } catch {
    return null;
  }
}

test("QEMU itself has as little as the host allows", async (context) => {
  const vm = await SmolVM.create();
  const { pid, folder } = vm.info;
  assert.ok(pid !== null);
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string): string => new RegExp(`^${name}:[ \\t]*(.*)$`, "m").exec(status)?.[1] ?? "";
  assert.equal(field("Seccomp"), "2", "a system call filter");
  assert.equal(field("NoNewPrivs"), "1");
  assert.equal(BigInt(`0x${field("CapEff")}`), 0n, "no capability in effect");
  const uids = field("Uid").split("\t").map(Number);
  if (process.getuid?.() === 0) {
    assert.equal(BigInt(`0x${field("CapBnd")}`), 0n, "no capability to be had");
    assert.equal(field("Groups").trim(), "");
    assert.ok(
      uids.every((uid) => uid >= 65534),
      `user ${uids.join(" ")}`,
    );
  }
  const limits = readFileSync(`/proc/${pid}/limits`, "utf8");
  const root = process.getuid?.() === 0; // for a user who has other processes the number can't be limited
  for (const limit of [
    ...["address space", "file size", "core file size", "open files"],
    ...(root ? ["processes"] : []),
  ]) {
    const row = limits.split("\n").find((line) => line.startsWith(`Max ${limit}`)) ?? "";
    assert.doesNotMatch(row, /unlimited/, row);
    context.diagnostic(row.replace(/ {2,}/g, " "));
  }
  if (root) assert.match(limits, /^Max processes +256 +256 /m);
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  assert.equal(statSync(join(folder, "run")).mode & 0o777, 0o700);
  assert.equal(statSync(join(folder, "run")).uid, process.getuid?.(), "QEMU can't put anything there any more");
  assert.equal(statSync(join(folder, "machine.json")).mode & 0o777, 0o600);
  const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  for (const wanted of ["-nodefaults", "-no-user-config", "-sandbox"]) assert.ok(command.includes(wanted), wanted);
  assert.ok(!command.some((argument) => argument.includes(folder)), "no path of the machine's folder");
  assert.ok(
    !readFileSync(`/proc/${pid}/environ`, "utf8").includes(home.folder),
    "nothing of this program's environment",
  );
  await vm.delete();
});
