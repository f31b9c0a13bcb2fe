import { mkdir, rm, writeFile } from "node:fs/promises";

import { HostError, ImageError, SmolVMError } from "../errors.js";
import { isErrno } from "../host/errno.js";
import { assertSpace, type LocalImage, noSpace, NOT_WRITABLE } from "../images/index.js";
import type { AssetSource, ImageStore } from "../images/store/index.js";
import { Apt } from "./apt.js";
import type { DefaultImageOptions } from "./default-image.js";
import { type Arch, bootableKernel } from "./kernel.js";
import { moduleInitrd, selectModules } from "./modules.js";
import { bootFiles, BUSYBOX, kernelPackages, moduleFiles } from "./packaged-files.js";
import { writeRootfs } from "./rootfs.js";

/** Makes the default image of packages and installs it. */
export async function buildDefault(
  store: ImageStore,
  name: string,
  arch: Arch,
  options: DefaultImageOptions,
): Promise<LocalImage> {
  const { signal } = options;
  const onStep = (step: string): void => options.onStep?.({ step });
  const temporary: string[] = [];
  const place = async (hint: string): Promise<string> => {
    const path = await store.temporaryFile(hint);
    temporary.push(path);
    return path;
  };
  const write = async (hint: string, data: Buffer): Promise<AssetSource> => {
    const path = await place(hint);
    await writeFile(path, data, { flag: "wx", signal });
    return { path };
  };
  try {
    const folder = await place("packages");
    await mkdir(folder);
    assertSpace(store.cacheDir, NEEDED_BYTES, lacksSpace(name));
    const apt = await Apt.open({ arch, folder, signal, onStep });
    const packages = await apt.download([...(await kernelPackages(apt, arch)), BUSYBOX]);

    onStep("unpacking the packages");
    const files = await bootFiles(packages, signal);
    const modules = await selectModules({
      ...files,
      load: async (names) => await moduleFiles(packages, names, signal),
    });
    const kernel = await write("kernel", await bootableKernel(files.kernel, arch));
    const initrd = await write("initrd", moduleInitrd(modules));

    onStep("making the root filesystem");
    const path = await place("rootfs");
    const version = /\d+(\.\d+)+/.exec(packages.find((each) => each.name === BUSYBOX)?.version ?? "")?.[0] ?? "0";
    const { extents } = await writeRootfs(path, { busybox: files.busybox, time: files.time, version });

    onStep("installing the image");
    const details = Object.fromEntries(packages.map((each) => [each.name, each.version]));
    const assets = { kernel, initrd, rootfs: { path, extents } };
    return await store.install(name, { assets, origin: { kind: "built", details } }, { signal });
  } finally {
    for (const path of temporary) await rm(path, { recursive: true, force: true });
  }
}

/** Lists and packages of apt, and the finished image beside them; without this, apt complains in words of its own. */
const NEEDED_BYTES = 160 * 1024 * 1024;

const lacksSpace = (name: string): string => `Not enough space to make the image '${name}'`;

/** Errors of the library pass as they are; what the system said gets a name and a mend. */
export function buildFailure(error: unknown, name: string, cacheDir: string): unknown {
  // Whatever is wrong with a package's content, to the caller it is this image that can't be made.
  if (error instanceof SmolVMError && error.code !== "IMAGE_INVALID") return error;
  if (isErrno(error, "ENOSPC", "EDQUOT")) {
    return noSpace(cacheDir, { neededBytes: NEEDED_BYTES, what: lacksSpace(name), cause: error });
  }
  if (isErrno(error)) {
    return new HostError(
      isErrno(error, ...NOT_WRITABLE) ? "HOST_PERMISSION" : "HOST_IO",
      `The image '${name}' could not be made: ${error.message}.`,
      {
        hint: "Give this user a folder that can be written: set SMOLVM_IMAGE_DIR, or SMOLVM_HOME for all that smolvm keeps.",
        details: { errno: error.code, path: error.path },
        cause: error,
      },
    );
  }
  const said = error instanceof Error ? error.message : String(error);
  return new ImageError("IMAGE_BUILD_FAILED", `The image '${name}' could not be made: ${said.replace(/\.$/, "")}.`, {
    hint: "Try again. Should it fail again, take the image from a machine that has it: smolvm image export there, smolvm image import here.",
    cause: error,
  });
}
