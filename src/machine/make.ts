import { processIdentity } from "../host/process.js";
import { ImageStore } from "../images/store/index.js";
import { wantedVcpus } from "./config.js";
import type { Wish } from "./source.js";
import { claimFolder, type MachineState } from "./state.js";

export interface MadeMachine {
  readonly state: MachineState;
  /** Gives back the image's files. Called when the machine's folder is gone. */
  readonly release: () => Promise<void>;
}

/**
 * Makes a machine's folder and leases its image, so that nobody removes the files while the machine is there.
 *
 * @throws VMAlreadyExistsError, ImageError, ValidationError
 */
export async function claimMachine(wish: Wish, signal: AbortSignal | undefined): Promise<MadeMachine> {
  const { config, image, cacheDir, ...resolved } = await wish.resolve(signal);
  const paths = [config.kernelPath, config.rootfsPath, ...(resolved.initrdPath === null ? [] : [resolved.initrdPath])];
  const lease = await new ImageStore(cacheDir).lease(paths, { vmId: wish.vmId });
  try {
    // The immutable content itself: another version of the image may take the name while the machine is there.
    const [kernelPath = config.kernelPath, leasedRootfs = config.rootfsPath, initrdPath = null] = lease.paths;
    const state: MachineState = {
      version: 1,
      vmId: wish.vmId,
      createdAt: new Date().toISOString(),
      detached: wish.detached,
      owner: wish.detached ? null : processIdentity(),
      status: "created",
      reason: null,
      image,
      cacheDir,
      kernelPath,
      rootfsPath: config.diskMode === "shared" ? config.rootfsPath : leasedRootfs,
      initrdPath,
      bootArgs: resolved.bootArgs,
      vcpuCount: wantedVcpus(config),
      memSizeMib: config.memSizeMib,
      diskMode: config.diskMode,
      diskSizeMib: config.diskSizeMib,
      extraDrives: config.extraDrives,
      network: config.network,
      accel: config.accel,
      env: config.envVars,
      ports: [],
      run: null,
    };
    await claimFolder(state);
    return { state, release: () => lease.release() };
  } catch (error) {
    await lease.release();
    throw error;
  }
}
