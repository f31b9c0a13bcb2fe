import { BlockList, isIP } from "node:net";

import { FetchFailure } from "../failure.js";

/**
 * The proxy that the environment names for an address, or null: `HTTP_PROXY`, `HTTPS_PROXY`, else `ALL_PROXY`, unless
 * `NO_PROXY` excepts the host. Lower-case names win, as they do for curl.
 */
export function proxyFor(url: URL): URL | null {
  const name = url.protocol === "https:" ? "https_proxy" : "http_proxy";
  const value = variable(name) || variable("all_proxy");
  if (value === "" || isExcepted(url, variable("no_proxy"))) return null;
  const text = value.includes("://") ? value : `http://${value}`;
  const proxy = URL.canParse(text) ? new URL(text) : null;
  if (proxy === null || (proxy.protocol !== "http:" && proxy.protocol !== "https:")) {
    throw new FetchFailure(`${name} names a proxy of a kind that is not supported`, { transient: false });
  }
  return proxy;
}

function variable(name: string): string {
  return (process.env[name] ?? process.env[name.toUpperCase()] ?? "").trim();
}

/** NO_PROXY: names (with all names below them), addresses, networks such as 10.0.0.0/8, each with a port or without; or `*`. */
function isExcepted(url: URL, list: string): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, "").toLowerCase();
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  return list.split(/[\s,]+/).some((entry) => {
    if (entry === "") return false;
    if (entry === "*") return true;
    if (entry.includes("/")) return isInNetwork(host, entry);
    const [, name = "", only] = /^\[?(.*?)\]?(?::(\d+))?$/.exec(isIP(entry) === 6 ? `[${entry}]` : entry) ?? [];
    const domain = name.toLowerCase().replace(/^\*?\./, "");
    return (only === undefined || only === port) && (host === domain || host.endsWith(`.${domain}`));
  });
}

function isInNetwork(host: string, network: string): boolean {
  const family = isIP(host);
  const [address = "", bits = ""] = network.split("/");
  if (family === 0 || isIP(address) !== family || !/^\d{1,3}$/.test(bits)) return false;
  if (Number(bits) > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  const type = family === 4 ? "ipv4" : "ipv6";
  list.addSubnet(address, Number(bits), type);
  return list.check(host, type);
}
