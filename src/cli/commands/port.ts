import { defineCommand } from "../command.js";
import { UsageError } from "../failure.js";
import { machine, MACHINE } from "../machines.js";
import { integer, portPair } from "../values.js";

export const port = defineCommand({
  summary: "Forward ports of this host to a machine, or list those that are",
  description: `HOST:GUEST forwards that port of 127.0.0.1; GUEST alone takes any free one. Without ports those that are
forwarded are printed, one HOST:GUEST a line. What is forwarded ends when the machine stops.

The server in the machine has to listen on 0.0.0.0, or on the machine's address: on its own 127.0.0.1 nobody
reaches it from here.`,
  positionals: [MACHINE, { name: "[HOST:]GUEST", optional: true, repeat: true }],
  options: {
    remove: {
      value: "HOST",
      repeat: true,
      summary: "Stop forwarding this port of the host",
      completes: "forwarded-port",
    },
  },
  examples: ["smolvm port box 8080:80", "smolvm port box", "smolvm port box --remove 8080"],
  async run({ positionals: [id = "", ...pairs], options }) {
    const wanted = pairs.map((pair) => portPair("PORT", pair));
    const unwanted = options.remove.map((text) => integer("--remove", text) ?? 0);
    if (unwanted.some((host) => host < 1 || host > 65535)) throw new UsageError("--remove takes a port, 1 to 65535.");
    const vm = await machine(id);
    for (const host of unwanted) await vm.unexposeLocal(host);
    for (const { host, guest } of wanted) await vm.exposeLocal(guest, host);
    const { ports } = vm.info;
    return { data: ports, text: ports.map(({ hostPort, guestPort }) => `${hostPort}:${guestPort}\n`).join("") };
  },
});
