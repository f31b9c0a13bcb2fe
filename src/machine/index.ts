/** The door of the machine room. */
export type { GuestProcess, RunOptions, SpawnOptions } from "./command.js";
export { VMConfig, type ExtraDrive, type VMConfigFields } from "./config.js";
export type { VMDirent, VMFiles, VMFileStat, WriteFileOptions } from "./files.js";
export type { VMInfo } from "./info.js";
export type { RunResult } from "./result.js";
export type { CreateProgress, VMOptions } from "./source.js";
export { findFolders, type FoundFolder, type ForwardedPort, type VMStatus } from "./state.js";
export { SmolVM, SmolVM as VM, type StartOptions } from "./vm.js";
