import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";

import { ImageError, SmolVMError } from "../../../src/errors.js";
import type { TransferPolicy } from "../../../src/images/fetch/policy.js";
import type { TransferRequest, TransferResult } from "../../../src/images/fetch/request.js";
import { discardPartial, transferWith } from "../../../src/images/fetch/transfer.js";
import { TestServer, type Handler, type ServedRequest, type ServerOptions } from "../../fixtures/servers/server.js";
import { certificate, Folder, policyFor, sha256, type TransportName } from "./setting.js";

export interface Trial {
  readonly transport: TransportName;
  /** Default: "http". */
  readonly scheme?: "http" | "https";
  /** What the server has, and what a pinned digest is of. */
  readonly bytes: Buffer;
  readonly handler: Handler;
  /** Whether the caller knows the digest. Default: true. */
  readonly pinned?: boolean;
  readonly policy?: Partial<TransferPolicy>;
  readonly server?: ServerOptions;
  readonly request?: Partial<TransferRequest>;
  /** Leaves the check that the next call succeeds, where there is nothing to come back to. */
  readonly path?: string;
}

export interface Outcome {
  readonly result: TransferResult | null;
  readonly error: SmolVMError | null;
  readonly requests: readonly ServedRequest[];
  readonly stored: Buffer | null;
}

let count = 0;

/** How many transfers were tried since the last call. */
export function trialsCounted(): number {
  const counted = count;
  count = 0;
  return counted;
}

/**
 * Runs one transfer against a server that misbehaves, and checks what must hold however it ends: a success has exactly the
 * right bytes; a failure is a typed error and leaves nothing that keeps the next call, against a good server, from success.
 */
export async function attempt(trial: Trial): Promise<Outcome> {
  const { transport, bytes, handler, pinned = true } = trial;
  count++;
  using folder = new Folder();
  const tls = trial.scheme === "https" ? certificate() : undefined;
  await using server = await TestServer.start(handler, { tls, ...trial.server });
  const partial = folder.file("image.partial");
  const digest = pinned ? sha256(bytes) : null;
  const policy = policyFor(transport, { ca: tls?.cert, ...trial.policy });
  const urls = [server.origin + (trial.path ?? "/image")];
  const request: TransferRequest = { urls, digest, partial, ...trial.request };
  let [result, error]: [TransferResult | null, SmolVMError | null] = [null, null];
  try {
    result = await transferWith(request, policy);
  } catch (thrown) {
    assert.ok(thrown instanceof SmolVMError, `not a typed error: ${String(thrown)}`);
    error = thrown;
  }
  const stored = result === null ? null : readFileSync(result.path);
  if (result !== null && stored !== null) {
    if (pinned) assert.equal(sha256(stored), digest, "the stored bytes are not the pinned ones");
    assert.equal(result.contentDigest, sha256(stored));
    assert.equal(result.size, stored.length);
    assert.deepEqual(folder.names(), ["image.partial", "image.partial.journal"], "other files stay behind");
    await discardPartial(partial);
    assert.deepEqual(folder.names(), []);
  } else {
    await assertRecovers(request, bytes, policy);
  }
  return { result, error, requests: server.requests, stored };
}

/** The next call, with the same partial file and at the same address as far as that can be, must succeed. */
async function assertRecovers(request: TransferRequest, bytes: Buffer, policy: TransferPolicy): Promise<void> {
  await using good = await TestServer.start((_request, reply) => reply.file(bytes));
  const digest = sha256(bytes);
  const result = await transferWith({ partial: request.partial, digest, urls: [`${good.origin}/image`] }, policy);
  assert.equal(sha256(readFileSync(result.path)), digest, "what a failure left behind spoiled the next call");
  await discardPartial(request.partial);
  assert.equal(existsSync(`${request.partial}.journal`), false);
}

/** The error that a transfer must end with. */
export async function failureOf(request: TransferRequest, policy: TransferPolicy): Promise<ImageError> {
  const error: unknown = await transferWith(request, policy).then(
    () => assert.fail("it succeeded"),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof ImageError, String(error));
  return error;
}
