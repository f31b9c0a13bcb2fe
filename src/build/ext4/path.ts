import { ImageError } from "../../errors.js";
import { MAX_NAME } from "./format.js";

/** Names are bytes to ext4; a string stands for its UTF-8 bytes. */
export type Name = string | Uint8Array;

/** The path's names. A leading "/" or "./" and empty or "." parts say nothing and are dropped. */
export function split(path: Name): string[] {
  const names = bytes(path)
    .toString("latin1")
    .split("/")
    .filter((name) => name !== "" && name !== ".");
  for (const name of names) {
    if (name === "..") throw invalid(path, "has '..' in it");
    if (name.includes("\0")) throw invalid(path, "has a NUL byte in it");
    if (name.length > MAX_NAME)
      throw invalid(path, `has a name of ${name.length} bytes in it; the most is ${MAX_NAME}`);
  }
  return names;
}

export function bytes(name: Name): Buffer {
  return typeof name === "string" ? Buffer.from(name, "utf8") : Buffer.from(name);
}

export function invalid(path: Name, reason: string): ImageError {
  return new ImageError("IMAGE_INVALID", `'${show(path)}' ${reason}.`, { details: { path: show(path) } });
}

export function show(path: Name): string {
  const text = bytes(path).toString("utf8");
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
