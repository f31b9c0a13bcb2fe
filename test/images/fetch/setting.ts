import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { DEFAULT_POLICY, type TransferPolicy } from "../../../src/images/fetch/policy.js";
import { selfSigned } from "../../fixtures/servers/certificate.js";
import type { Handler } from "../../fixtures/servers/server.js";

export const TRANSPORTS = ["fast", "simple"] as const;
export type TransportName = (typeof TRANSPORTS)[number];

/** Every way for the bytes to come. */
export const ROUTES = TRANSPORTS.flatMap((transport) =>
  (["http", "https"] as const).map((scheme) => ({ transport, scheme, name: `${transport} transport and ${scheme}` })),
);
export type Route = (typeof ROUTES)[number];

/** The limits of a transfer, short enough to be run into. */
export function policyFor(transport: TransportName, changes: Partial<TransferPolicy> = {}): TransferPolicy {
  return {
    ...DEFAULT_POLICY,
    transport,
    connectTimeoutMs: 2_000,
    headersTimeoutMs: 400,
    gapTimeoutMs: 300,
    backoffMs: 4,
    backoffLimitMs: 20,
    ...changes,
  };
}

/** A folder of one test, gone at its end. */
export class Folder {
  readonly path = mkdtempSync(join(tmpdir(), "smolvm-fetch-"));

  file(name: string): string {
    return join(this.path, name);
  }

  names(): string[] {
    return readdirSync(this.path).sort();
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** The same bytes for the same size and seed. Runs of zeros of odd lengths lie between runs that nothing compresses. */
export function sampleBytes(size: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(size);
  let state = (seed * 2654435761) >>> 0 || 1;
  const next = (): number => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
  for (let at = 0; at < size;) {
    const length = Math.min(size - at, 1 + (next() % 40_000));
    if (next() % 3 !== 0) {
      for (let i = 0; i + 4 <= length; i += 4) bytes.writeUInt32LE(next(), at + i);
      for (let i = length - (length % 4); i < length; i++) bytes[at + i] = next() & 0xff;
    }
    at += length;
  }
  return bytes;
}

export function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Runs with other environment variables; undefined takes one away. */
export async function withEnvironment(
  changes: Record<string, string | undefined>,
  body: () => Promise<void>,
): Promise<void> {
  const before = { ...process.env };
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) Reflect.deleteProperty(process.env, name);
    else process.env[name] = value;
  }
  try {
    await body();
  } finally {
    for (const name of Object.keys(changes)) Reflect.deleteProperty(process.env, name);
    Object.assign(process.env, before);
  }
}

/** An image for the tests that are about something else, and a server that has it. */
export const SAMPLE = sampleBytes(100_000);
export const SAMPLE_DIGEST = sha256(SAMPLE);
export const serveSample: Handler = (_request, reply) => reply.file(SAMPLE);

let made: ReturnType<typeof selfSigned> | undefined;

/** The certificate of every server on https. Made once: it takes longer than most transfers here. */
export function certificate(): ReturnType<typeof selfSigned> {
  return (made ??= selfSigned());
}
