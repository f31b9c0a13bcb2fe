import { inspect } from "node:util";

import { ValidationError } from "../errors.js";
import { assertImageName } from "./name.js";
import { ImageSource, type ImageSourceFields, knownFields } from "./source.js";

/* What a caller without types may give an ImageManager. */

export function checkedFolder(cacheDir: unknown): string | undefined {
  if (cacheDir === undefined) return undefined;
  if (typeof cacheDir === "string" && cacheDir !== "" && !cacheDir.includes("\0")) return cacheDir;
  throw new ValidationError(`cacheDir is ${JSON.stringify(cacheDir)}; allowed is the path of a folder`, {
    details: { field: "cacheDir", value: cacheDir },
  });
}

export function checkedRegistry(registry: unknown): ReadonlyMap<string, ImageSource> {
  if (typeof registry !== "object" || registry === null) {
    throw new ValidationError("registry must be an object that maps names to images");
  }
  return new Map(
    Object.entries(registry).map(([name, image]) => {
      assertImageName(name);
      const source = image instanceof ImageSource ? image : new ImageSource(image as ImageSourceFields);
      if (source.name === name) return [name, source];
      throw new ValidationError(
        `registry has image '${source.name}' under the key '${name}'; the two must be the same`,
      );
    }),
  );
}

/** What an option of that name takes, in every call that has it. Names, paths and registries are checked where they are used. */
const OPTIONS: Readonly<Record<string, readonly [isRight: (value: unknown) => boolean, allowed: string]>> = {
  ...Object.fromEntries(
    ["offline", "acceptNew", "dryRun", "force", "trust"].map((flag) => [
      flag,
      [(value: unknown) => typeof value === "boolean", "true or false"],
    ]),
  ),
  verify: [(value) => value === "auto" || value === "full", '"auto" or "full"'],
  onProgress: [(value) => typeof value === "function", "a function"],
  signal: [(value) => value instanceof AbortSignal, "an AbortSignal"],
};

/** Checks a call's options. Those that are left out or undefined have their defaults; one that the call does not know is misspelt. */
export function checkOptions(options: unknown, allowedFields: readonly string[]): void {
  for (const [field, value] of Object.entries(knownFields("options", options, allowedFields))) {
    const [isRight, allowed] = OPTIONS[field] ?? [];
    if (value === undefined || isRight === undefined || isRight(value)) continue;
    throw new ValidationError(`${field} is ${inspect(value, { depth: 0 }).slice(0, 200)}; allowed is ${allowed}`, {
      details: { field, value },
    });
  }
}

export function assertPath(path: unknown): asserts path is string {
  if (typeof path === "string" && path !== "" && !path.includes("\0")) return;
  throw new ValidationError(`path is ${inspect(path, { depth: 0 }).slice(0, 200)}; allowed is the path of a file`, {
    details: { field: "path", value: path },
  });
}
