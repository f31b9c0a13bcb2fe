import { createHash, randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { temporaryFolder } from "./smolvm.js";

export interface Served {
  /** The registry's file, and the environment in which smolvm uses it with a cache of its own. */
  readonly registry: string;
  readonly env: Readonly<Record<string, string>>;
  readonly folder: string;
  readonly requests: string[];
}

function digestOf(files: ReadonlyMap<string, Buffer>, path: string): string {
  return createHash("sha256")
    .update(files.get(path) ?? "")
    .digest("hex");
}

/** A registry with two images, "one" and "two", behind a real server that can be slow. */
export async function serveImages(
  context: TestContext,
  { size = 300_000, pauseMs = 0, digests = true } = {},
): Promise<Served> {
  const files = new Map<string, Buffer>();
  for (const name of ["one", "two"]) {
    files.set(`/${name}/kernel`, randomBytes(size));
    files.set(`/${name}/rootfs`, randomBytes(size));
  }
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(`${request.method ?? ""} ${request.url ?? ""}`);
    const body = files.get(request.url ?? "");
    if (body === undefined) return void response.writeHead(404).end();
    response.writeHead(200, { "content-length": body.length });
    void sendSlowly(response, body, pauseMs);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const source = (name: string) => ({
    name,
    kernel_url: `${origin}/${name}/kernel`,
    rootfs_url: `${origin}/${name}/rootfs`,
    ...(digests && {
      kernel_sha256: digestOf(files, `/${name}/kernel`),
      rootfs_sha256: digestOf(files, `/${name}/rootfs`),
    }),
  });
  const folder = await temporaryFolder(context);
  const registry = join(folder, "registry.json");
  await writeFile(registry, JSON.stringify({ one: source("one"), two: source("two") }));
  return { registry, folder, requests, env: { SMOLVM_HOME: join(folder, "home"), SMOLVM_REGISTRY: registry } };
}

async function sendSlowly(response: ServerResponse, body: Buffer, pauseMs: number): Promise<void> {
  const piece = Math.ceil(body.length / 20);
  for (let start = 0; start < body.length && !response.destroyed; start += piece) {
    response.write(body.subarray(start, start + piece));
    if (pauseMs > 0) await sleep(pauseMs);
  }
  response.end();
}
