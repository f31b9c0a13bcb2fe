import { createHash } from "node:crypto";
import { readSync } from "node:fs";

import type { Extent } from "./request.js";
import { ExtentCollector } from "../zeros.js";

/** Reads of this size are as quick as any, and their buffer stays in the processor's cache. */
const READ_SIZE = 256 * 1024;

export interface HashResult {
  /** SHA-256, lower-case hex. */
  readonly digest: string;
  readonly extents: readonly Extent[];
}

/** Computes the digest of a file that is still growing, from its beginning, as far as it is told to go. */
export class FileHasher {
  position = 0;
  readonly #fd: number;
  readonly #hash = createHash("sha256");
  readonly #extents = new ExtentCollector();
  readonly #buffer = Buffer.allocUnsafeSlow(READ_SIZE);

  constructor(fd: number) {
    this.#fd = fd;
  }

  advance(to: number): void {
    while (this.position < to) {
      const length = readSync(this.#fd, this.#buffer, 0, Math.min(READ_SIZE, to - this.position), this.position);
      if (length === 0) throw new Error(`the file ends at ${this.position}, before ${to}`);
      const bytes = this.#buffer.subarray(0, length);
      this.#hash.update(bytes);
      this.#extents.add(bytes, this.position);
      this.position += length;
    }
  }

  finish(): HashResult {
    return { digest: this.#hash.digest("hex"), extents: this.#extents.extents };
  }
}
