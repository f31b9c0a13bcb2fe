import { spawn } from "node:child_process";

import { ImageError } from "../errors.js";
import { requireTool } from "../host/tools.js";
import { readTar, type TarEntry } from "./tar.js";

/** Gives the entries of a Debian package's tree as they are unpacked, one after the other; nothing is written anywhere. */
export async function* readDeb(path: string, signal?: AbortSignal): AsyncGenerator<TarEntry, void, undefined> {
  const child = spawn(requireTool("dpkg-deb"), ["--fsys-tarfile", path], { stdio: ["ignore", "pipe", "pipe"] });
  const errors: Buffer[] = [];
  child.stderr.on("data", (chunk: Buffer) => errors.push(chunk));
  const ended = new Promise<number | null>((resolve) => {
    child.once("error", () => resolve(null));
    child.once("close", resolve);
  });
  const stop = (): void => void child.kill("SIGKILL");
  signal?.addEventListener("abort", stop, { once: true });
  try {
    signal?.throwIfAborted();
    yield* readTar(child.stdout);
    if ((await ended) !== 0) throw new Error(`dpkg-deb ended with status ${(await ended) ?? "?"}`);
  } catch (error) {
    signal?.throwIfAborted();
    stop();
    await ended;
    const said = Buffer.concat(errors).toString("utf8").trim().split("\n").at(-1) ?? "";
    throw new ImageError(
      "IMAGE_BUILD_FAILED",
      `The package '${path}' can't be unpacked${said === "" ? "" : `: ${said}`}.`,
      {
        cause: error,
      },
    );
  } finally {
    signal?.removeEventListener("abort", stop);
    stop();
  }
}
