import { rm } from "node:fs/promises";
import { dirname } from "node:path";

import { ValidationError } from "../../errors.js";
import { abortable } from "../../host/abortable.js";
import { withoutCredentials } from "../address.js";
import { storageFailure } from "../storage-failure.js";
import { asHostError, checksumMismatch, downloadFailed, FetchFailure, type Attempt, type Mismatch } from "./failure.js";
import { Following } from "./following.js";
import type { HashResult } from "./hasher.js";
import { removeSideFiles } from "./own-file.js";
import { PartialFile } from "./partial.js";
import { DEFAULT_POLICY, type TransferPolicy } from "./policy.js";
import { ProgressReporter } from "./progress.js";
import type { Extent, TransferRequest, TransferResult } from "./request.js";
import { SCHEMES } from "./schemes.js";
import { DEFAULT_MAX_UNPACKED } from "./unpack.js";

/**
 * Brings the bytes of an address (or of a mirror of it) to this machine, verified, unpacked and durable.
 *
 * Throws an ImageError: IMAGE_DOWNLOAD_FAILED, IMAGE_CHECKSUM_MISMATCH or IMAGE_NO_SPACE; a HostError if the file can't be
 * written or a program to unpack it is missing; or the signal's own reason. What can be gone on with stays at
 * `request.partial`; what failed verification is removed.
 */
export function transfer(request: TransferRequest): Promise<TransferResult> {
  return transferWith(request, DEFAULT_POLICY);
}

/** Removes what a transfer left at `partial`, its side files included: once the caller has put the result where it belongs. */
export async function discardPartial(partial: string): Promise<void> {
  await rm(partial, { recursive: true, force: true });
  await removeSideFiles(partial);
}

export async function transferWith(request: TransferRequest, policy: TransferPolicy): Promise<TransferResult> {
  request.signal?.throwIfAborted();
  const digest = request.digest?.toLowerCase() ?? null;
  let file: PartialFile | null = null;
  try {
    file = await PartialFile.open(request.partial, digest, policy.durable);
    const result = await new Transfer(request, digest, file, policy).run();
    await file.close();
    return result;
  } catch (error) {
    const worthless = file?.covered === 0;
    await file?.close();
    if (worthless) await discardPartial(request.partial);
    request.signal?.throwIfAborted();
    throw asHostError(storageFailure(error, dirname(request.partial)), request.partial);
  }
}

class MismatchError extends Error {
  readonly mismatch: Mismatch;
  constructor(mismatch: Mismatch) {
    super("SHA-256 mismatch");
    this.mismatch = mismatch;
  }
}

/** One call: the addresses in their order, until one has brought the right bytes. */
class Transfer {
  readonly #request: TransferRequest;
  readonly #digest: string | null;
  readonly #file: PartialFile;
  readonly #policy: TransferPolicy;
  readonly #progress: ProgressReporter;
  /** Aborted with the reason why it is of no use to fetch the rest: the bytes are a bomb, or there is no room for them. */
  readonly #refused = new AbortController();
  readonly #signal: AbortSignal;
  readonly #following: Following;

  constructor(request: TransferRequest, digest: string | null, file: PartialFile, policy: TransferPolicy) {
    this.#request = request;
    this.#digest = digest;
    this.#file = file;
    this.#policy = policy;
    this.#progress = new ProgressReporter(request.onProgress);
    this.#signal = AbortSignal.any([this.#refused.signal, ...(request.signal === undefined ? [] : [request.signal])]);
    this.#following = new Following(file, {
      workerFromBytes: policy.workerFromBytes,
      maxUnpackedBytes: request.maxUnpackedBytes ?? DEFAULT_MAX_UNPACKED,
      freeDataBytes: policy.freeDataBytes,
      onRefused: (error) => this.#refused.abort(error),
    });
  }

  async run(): Promise<TransferResult> {
    let keep = false;
    try {
      this.#file.listen(this.#following);
      const result = (await this.#leftover()) ?? (await this.#firstGood());
      keep = true;
      return result;
    } finally {
      await this.#following.stop(keep);
    }
  }

  /** A file that nobody's journal tells of may be whole all the same: its digest says so. */
  async #leftover(): Promise<TransferResult | null> {
    const [url] = this.#request.urls;
    if (this.#file.untold === 0 || this.#digest === null || url === undefined) return null;
    this.#file.adopt();
    const { digest, extents } = await this.#hash();
    if (digest === this.#digest) {
      try {
        return await this.#result(url, digest, extents);
      } catch (error) {
        throw error instanceof FetchFailure ? downloadFailed(url, error, []) : error;
      }
    }
    this.#file.reset();
    return null;
  }

  async #firstGood(): Promise<TransferResult> {
    const attempts: Attempt[] = [];
    let mismatch: Mismatch | null = null;
    const urls = this.#addresses();
    for (const [index, url] of urls.entries()) {
      try {
        return await this.#from(url);
      } catch (thrown) {
        this.#request.signal?.throwIfAborted();
        const error: unknown = this.#refused.signal.aborted ? this.#refused.signal.reason : thrown;
        if (error instanceof MismatchError) ({ mismatch } = error);
        else if (!(error instanceof FetchFailure)) throw error;
        else if (error.bomb || (index === urls.length - 1 && mismatch === null)) {
          if (error.bomb) this.#file.reset();
          throw downloadFailed(url, error, attempts);
        }
        attempts.push({ url: withoutCredentials(url), reason: error.message });
      }
    }
    if (mismatch === null) throw new ValidationError("A transfer needs at least one address; 'urls' is empty.");
    throw checksumMismatch(mismatch, attempts);
  }

  /** The addresses in their order, but first the one whose bytes are all here: they only were not published. */
  #addresses(): readonly string[] {
    const { urls } = this.#request;
    const brought = this.#file.complete ? urls.find((url) => this.#file.isFrom(url)) : undefined;
    return brought === undefined ? urls : [brought, ...urls.filter((url) => url !== brought)];
  }

  async #from(url: string): Promise<TransferResult> {
    const file = this.#file;
    // Without a digest nothing would tell that another server's file is the same one.
    if (this.#digest === null && file.complete && !file.isFrom(url)) file.reset();
    let plain = false;
    for (;;) {
      this.#following.url = url;
      await this.#fetch(url, plain);
      const { digest, extents } = await this.#hash();
      const expected = this.#expectedFrom(url);
      if (expected === null || digest === expected) return this.#result(url, digest, extents);
      const seams = file.spliced;
      file.reset();
      if (!seams || plain) {
        throw new MismatchError({ url, expected, actual: digest, remembered: this.#digest === null });
      }
      plain = true;
    }
  }

  /** What the bytes of an address must hash to: what a mirror has must be what was there before; the address itself decides. */
  #expectedFrom(url: string): string | null {
    const { urls, remembered } = this.#request;
    return this.#digest ?? (url === urls.at(-1) ? null : (remembered ?? null));
  }

  async #fetch(url: string, plain: boolean): Promise<void> {
    const file = this.#file;
    const { protocol } = URL.canParse(url) ? new URL(url) : { protocol: "" };
    const scheme = SCHEMES.get(protocol);
    if (scheme === undefined) {
      const kinds = [...SCHEMES.keys()].join(", ");
      throw new FetchFailure(`its kind of address is not supported (${kinds} are)`, {
        transient: false,
        hint: "Write the whole address, such as https://example.com/rootfs.ext4 or file:///srv/rootfs.ext4.",
      });
    }
    const onBytes = (): void => {
      this.#progress.report({ phase: "download", bytes: file.covered, total: file.total });
    };
    const pinned = this.#digest !== null;
    await scheme({ url, file, pinned, plain, policy: this.#policy, signal: this.#signal, onBytes });
    this.#progress.report({ phase: "download", bytes: file.covered, total: file.total }, { final: true });
  }

  /** The digest of the whole file. Meanwhile the rest of it goes to the disk. */
  async #hash(): Promise<HashResult> {
    const report = (final: boolean): void => {
      const bytes = final ? this.#file.covered : this.#following.hashed;
      this.#progress.report({ phase: "verify", bytes, total: this.#file.total }, { final });
    };
    const timer = setInterval(report, PROGRESS_MS, false);
    try {
      const [result] = await abortable(Promise.all([this.#following.hash(), this.#file.sync()]), this.#signal);
      report(true);
      return result;
    } finally {
      clearInterval(timer);
    }
  }

  async #result(url: string, digest: string, extents: readonly Extent[]): Promise<TransferResult> {
    const file = this.#file;
    try {
      const unpacked = await abortable(this.#following.unpacked(), this.#signal);
      const { path, size } = unpacked ?? { path: file.path, size: file.total ?? 0 };
      if (size === 0) throw new FetchFailure("it is empty", { transient: false, hint: EMPTY_HINT });
      const content = unpacked ?? { digest, extents };
      return {
        path,
        digest,
        contentDigest: content.digest,
        size,
        extents: content.extents,
        url,
        fetchedBytes: file.fetchedBytes,
      };
    } catch (error) {
      // All bytes are here and are of no use: the next call is not to go on with them.
      if (error instanceof FetchFailure) file.reset();
      throw error;
    }
  }
}

const PROGRESS_MS = 50;
const EMPTY_HINT =
  "There is a file at the address, but with nothing in it. Check the address, or upload the file again.";
