import { BlockList, isIP } from "node:net";

import { FetchFailure } from "../failure.js";

/**
 * The proxy that the environment names for an address, or null: `HTTP_PROXY`, `HTTPS_PROXY`, else `ALL_PROXY`, unless
 * `NO_PROXY` excepts the host. Lower-case names win, as they do for curl.
 */
export function proxyFor(url: URL): URL | null {
  const found = variable(url.protocol === "https:" ? "https_proxy" : "http_proxy") ?? variable("all_proxy");
  if (found === null || isExcepted(url, variable("no_proxy")?.value ?? "")) return null;
  const text = found.value.includes("://") ? found.value : `http://${found.value}`;
  const proxy = URL.canParse(text) ? new URL(text) : null;
  if (proxy === null || (proxy.protocol !== "http:" && proxy.protocol !== "https:")) {
    throw new FetchFailure(`${found.name} names a proxy of a kind that is not supported`, {
      transient: false,
      hint: `Set ${found.name} to a proxy with an http: or https: address, or except the host with NO_PROXY=${url.hostname}.`,
    });
  }
  return proxy;
}

/** A variable of that name or in capitals, if it is set to anything. */
function variable(name: string): { readonly name: string; readonly value: string } | null {
  const used = process.env[name] === undefined ? name.toUpperCase() : name;
  const value = (process.env[used] ?? "").trim();
  return value === "" ? null : { name: used, value };
}

/** NO_PROXY: names (with all names below them), addresses, networks such as 10.0.0.0/8, each with a port or without; or `*`. */
function isExcepted(url: URL, list: string): boolean {
  const host = hostOf(url.hostname);
  const port = url.port || (url.protocol === "https:" ? "443" : "80");
  return list.split(/[\s,]+/).some((entry) => {
    if (entry === "") return false;
    if (entry === "*") return true;
    if (entry.includes("/")) return isInNetwork(host, entry);
    const [, name = "", only] = /^\[?(.*?)\]?(?::(\d+))?$/.exec(isIP(entry) === 6 ? `[${entry}]` : entry) ?? [];
    const domain = hostOf(name.replace(/^\*?\./, ""));
    return (only === undefined || only === port) && (host === domain || host.endsWith(`.${domain}`));
  });
}

/** A host in the one form of the many it can be written in: no brackets, no dot at its end, ASCII, addresses shortened. */
function hostOf(name: string): string {
  const bare = name.replace(/^\[|\]$/g, "").replace(/\.$/, "");
  const text = isIP(bare) === 6 ? `http://[${bare}]/` : `http://${bare}/`;
  return URL.canParse(text) ? new URL(text).hostname.replace(/^\[|\]$/g, "") : bare.toLowerCase();
}

function isInNetwork(host: string, network: string): boolean {
  const family = isIP(host);
  const [address = "", bits = ""] = network.replace(/[[\]]/g, "").split("/");
  if (family === 0 || isIP(address) !== family || !/^\d{1,3}$/.test(bits)) return false;
  if (Number(bits) > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  const type = family === 4 ? "ipv4" : "ipv6";
  list.addSubnet(address, Number(bits), type);
  return list.check(host, type);
}
