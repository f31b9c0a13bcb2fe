import type { Arch } from "./kernel.js";

export function hostArch(): Arch | null {
  if (process.arch === "x64") return "x86_64";
  return process.arch === "arm64" ? "arm64" : null;
}
