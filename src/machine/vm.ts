import type { Readable } from "node:stream";

import { CommandExecutionUnavailableError, HostError, SmolVMError, VMNotFoundError, VMStateError } from "../errors.js";
import { liveness } from "../host/process.js";
import type { GuestConnection } from "../guest/index.js";
import type { QemuProcess } from "../hypervisor/index.js";
import { boot, guestAddress } from "./boot.js";
import { waitForClaim } from "./claim.js";
import {
  runCommand,
  spawnCommand,
  type CommandHost,
  type GuestProcess,
  type RunOptions,
  type SpawnOptions,
} from "./command.js";
import { assertKnownFields, assertVmId, integer, invalid, type VMConfig } from "./config.js";
import { followConsole, readConsole, rotateConsole } from "./console-log.js";
import { explainDeath, type Death } from "./death.js";
import { assertEnvName, assertEnvVars } from "./environment.js";
import { VMFiles } from "./files.js";
import { machineInfo, type VMInfo } from "./info.js";
import { openFreeLane, type Lane } from "./lanes.js";
import { addPort, removePort } from "./ports.js";
import { endWithProgram, killQemu, sweep } from "./reaper.js";
import type { RunResult } from "./result.js";
import { readOptions, type VMOptions, type Wish } from "./source.js";
import { claimMachine } from "./make.js";
import {
  loadState,
  machineFiles,
  machineFolder,
  removeFolder,
  saveState,
  type MachineState,
  type VMStatus,
} from "./state.js";
import { stopRunning } from "./stop.js";

export interface StartOptions {
  /** From the hypervisor's start to a guest that answers, in milliseconds. Default: 60000 under emulation, else 30000. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How long another program's start or stop of the same machine is waited for. */
const CLAIM_TIMEOUT_MS = 90_000;
const ATTACH_TIMEOUT_MS = 5000;
const ROTATE_MS = 2000;
/** A dying QEMU closes its sockets a moment before the system tells that it is gone. */
const DEATH_GRACE_MS = 500;

/**
 * A throwaway virtual machine. Making the object does nothing yet; `start()` boots it. Unless it is `detached` it ends with
 * this program, whatever way that ends. An idle machine doesn't keep the program alive.
 */
export class SmolVM implements AsyncDisposable {
  /** Files in the guest, by the names of `fs/promises`. */
  readonly files: VMFiles;
  readonly #vmId: string;
  readonly #wish: Wish | null;
  readonly #host: CommandHost;
  #state: MachineState | null = null;
  #status: VMStatus = "created";
  #death: Death | null = null;
  #deleted = false;
  #qemu: QemuProcess | null = null;
  #lane: Lane | null = null;
  #laneFailure: unknown = undefined;
  #release: (() => Promise<void>) | null = null;
  #guard: Disposable | null = null;
  #rotation: NodeJS.Timeout | undefined;
  /** Changes of the machine happen one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  /** @throws ValidationError */
  constructor(options: VMConfig | VMOptions | AttachedMachine = {}) {
    const attached = options instanceof AttachedMachine;
    this.#wish = attached ? null : readOptions(options);
    this.#vmId = attached ? options.state.vmId : (this.#wish?.vmId ?? "");
    this.#host = {
      exec: (request) => this.#connection().exec(request),
      hold: () => this.#hold(),
      explain: (error) => this.#explain(error),
    };
    this.files = new VMFiles({ ...this.#host, files: () => this.#connection().files });
    if (attached) this.#adopt(options.state);
  }

  /** Constructs and starts. When the start fails, nothing is left. */
  static async create(options: (VMConfig | VMOptions) & StartOptions = {}): Promise<SmolVM> {
    const { start, rest } = splitStartOptions(options);
    const vm = new SmolVM(rest);
    await vm.start(start);
    return vm;
  }

  /**
   * The machine of that id, which this or another program made.
   *
   * @throws VMNotFoundError
   */
  static async fromId(vmId: string): Promise<SmolVM> {
    assertVmId(vmId);
    await sweep();
    const state = await loadState(vmId);
    if (state === null) throw new VMNotFoundError(vmId);
    const vm = new SmolVM(new AttachedMachine(state));
    await vm.#attach();
    return vm;
  }

  /** Every machine of this user. What programs that are gone left behind is cleared away first. */
  static async list(): Promise<VMInfo[]> {
    const states = await sweep();
    return states.map((state) => machineInfo(state)).sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
  }

  get vmId(): string {
    return this.#vmId;
  }

  get status(): VMStatus {
    return this.#status;
  }

  /** What is known of the machine. Frozen; a new object with each call. */
  get info(): VMInfo {
    const state = this.#state;
    if (state === null)
      return machineInfo({ vmId: this.#vmId, status: this.#status, detached: this.#wish?.detached ?? false });
    return machineInfo(
      { ...state, status: this.#status, reason: this.#death?.reason ?? state.reason },
      this.#lane?.connection.agent,
    );
  }

  /**
   * The guest's IPv4 address.
   *
   * @throws VMStateError when the machine does not run or has no network.
   */
  getIp(): string {
    if (this.#status !== "running" || this.#state === null) throw this.#notRunning();
    const address = guestAddress(this.#state);
    if (address !== null) return address;
    throw new VMStateError(`The machine '${this.#vmId}' has no network.`, {
      hint: 'Create it with network "restricted" or "open".',
    });
  }

  /**
   * Boots the machine; a stopped one keeps its disk.
   *
   * @throws BootError when the guest does not come up in time, HostError, ImageError, ValidationError, VMAlreadyExistsError,
   *   VMStateError when it runs already, or the signal's reason.
   */
  start(options: StartOptions = {}): Promise<void> {
    return this.#inTurn(async () => {
      assertKnownFields("start", options, ["timeoutMs", "signal"]);
      const { timeoutMs, signal } = options;
      if (timeoutMs !== undefined) integer("timeoutMs", timeoutMs, 1, 0x7fffffff);
      signal?.throwIfAborted();
      if (this.#deleted) throw new VMStateError(`The machine '${this.#vmId}' was deleted.`);
      if (this.#status === "running") throw new VMStateError(`The machine '${this.#vmId}' runs already.`);
      const sweeping = sweep();
      sweeping.catch(() => undefined); // awaited below
      const isNew = this.#state === null;
      if (isNew) await this.#claim(signal);
      try {
        await this.#bootClaimed({ timeoutMs, signal });
        await sweeping;
      } catch (error) {
        if (isNew) await this.#discard();
        throw error;
      }
    });
  }

  /** Shuts the guest down, or ends it where it does not comply. The disk is kept; forwarded ports are not. Idempotent. */
  stop(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#state === null || this.#deleted) return;
      const files = this.#files();
      const claim = await waitForClaim(files.lock, CLAIM_TIMEOUT_MS).catch((error: unknown) => {
        if (isMissing(error)) return null; // deleted by another program
        throw error;
      });
      if (claim === null) return;
      try {
        const state = (await loadState(this.#vmId)) ?? this.#state;
        this.#stopWatching();
        if (state.run !== null) await stopRunning(files, state, { qemu: this.#qemu, lane: this.#lane });
        await this.#dropLane();
        this.#qemu = null;
        this.#death = null;
        this.#state = { ...state, status: "stopped", reason: null, run: null, ports: [] };
        this.#status = "stopped";
        await saveState(files, this.#state);
      } finally {
        await claim.release();
      }
    });
  }

  /** Ends the machine and removes everything of it. Idempotent. */
  async delete(): Promise<void> {
    const writesThrough =
      this.#state?.diskMode === "shared" || this.#state?.extraDrives.some((drive) => !drive.readOnly);
    // What is written to files that stay must arrive there; a private disk goes away anyway.
    if (writesThrough === true) await this.stop();
    await this.#inTurn(() => this.#discard());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.delete();
  }

  /** Looks at how the machine is now: another program may have changed it. */
  refresh(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#state === null || this.#deleted) return;
      await sweep();
      const state = await loadState(this.#vmId);
      if (state === null) {
        this.#deleted = true;
        this.#status = "stopped";
        await this.#dropLane();
        return;
      }
      if (this.#qemu !== null) {
        this.#state = { ...state, status: this.#state.status };
        return;
      }
      const sameRun = state.run?.token === this.#state.run?.token;
      if (!sameRun) await this.#dropLane();
      this.#adopt(state);
      await this.#attach();
    });
  }

  /**
   * Runs a command and waits for it. A string goes to the guest's `/bin/sh -c`, a list is a program and its arguments.
   * A command that fails is no error: see `exitCode` and `ok`. On time-out and abort all that it started is killed.
   *
   * @throws OperationTimeoutError, the signal's reason, CommandExecutionUnavailableError, ValidationError.
   */
  async run(command: string | readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return runCommand(this.#host, command, options);
  }

  /**
   * Starts a command and gives its streams.
   *
   * @throws CommandExecutionUnavailableError when the machine does not run, ValidationError.
   */
  spawn(command: string | readonly string[], options: SpawnOptions = {}): GuestProcess {
    return spawnCommand(this.#host, command, options);
  }

  /**
   * Makes a TCP port of the guest reachable at 127.0.0.1 of this host, until it is taken back or the machine stops.
   *
   * @param hostPort default: a free one.
   * @returns the host's port.
   * @throws HostError HOST_PORT_IN_USE, VMStateError.
   */
  exposeLocal(guestPort: number, hostPort?: number): Promise<number> {
    integer("guestPort", guestPort, 1, 65535);
    if (hostPort !== undefined) integer("hostPort", hostPort, 1, 65535);
    return this.#changing((files, state) => addPort(files, state, guestPort, hostPort ?? 0));
  }

  /** Takes back a port of the host. @throws ValidationError when it is not forwarded. */
  async unexposeLocal(hostPort: number): Promise<void> {
    integer("hostPort", hostPort, 1, 65535);
    await this.#changing(async (files, state) => ({
      state: await removePort(files, state, hostPort),
      value: undefined,
    }));
  }

  /** Sets variables for every later command in the machine, also after it was stopped and started again. */
  async setEnvVars(vars: Readonly<Record<string, string>>): Promise<void> {
    assertEnvVars("envVars", vars);
    await this.#changeEnv((env) => ({ ...env, ...vars }));
  }

  async unsetEnvVars(names: readonly string[]): Promise<void> {
    if (!Array.isArray(names)) throw invalid("names", names, "a list of names");
    for (const name of names) assertEnvName("names", name);
    await this.#changeEnv((env) => Object.fromEntries(Object.entries(env).filter(([name]) => !names.includes(name))));
  }

  async listEnvVars(): Promise<Record<string, string>> {
    if (this.#state === null) throw this.#notRunning();
    const state = (await loadState(this.#vmId)) ?? this.#state;
    return { ...state.env };
  }

  /** The guest's console so far, at most its last megabyte. */
  console(): string {
    return this.#state === null ? "" : readConsole(this.#files().console);
  }

  /** The guest's console from its beginning and on as it grows, until the machine ends. */
  consoleStream(options: { readonly signal?: AbortSignal | undefined } = {}): Readable {
    if (this.#state === null) throw this.#notRunning();
    return followConsole(this.#files().console, () => this.#status !== "running", options.signal);
  }

  #files() {
    return machineFiles(machineFolder(this.#vmId));
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(act);
    this.#turn = result.catch(() => undefined); // the caller has it; the next turn begins either way
    return result;
  }

  async #claim(signal: AbortSignal | undefined): Promise<void> {
    if (this.#wish === null) throw this.#notRunning();
    const made = await claimMachine(this.#wish, signal);
    this.#release = made.release;
    this.#state = made.state;
  }

  async #bootClaimed(options: { timeoutMs: number | undefined; signal: AbortSignal | undefined }): Promise<void> {
    const files = this.#files();
    const claim = await waitForClaim(files.lock, CLAIM_TIMEOUT_MS, options.signal);
    try {
      const state = await loadState(this.#vmId);
      if (state === null) throw new VMNotFoundError(this.#vmId);
      if (state.run?.qemu && liveness(state.run.qemu) !== "dead") {
        throw new VMStateError(`The machine '${this.#vmId}' runs already.`);
      }
      this.#death = null;
      const running = await boot(files, state, options).catch(async (error: unknown) => {
        await saveState(files, { ...state, status: "error", reason: messageOf(error), run: null, ports: [] });
        this.#status = "error";
        throw error;
      });
      this.#qemu = running.qemu;
      this.#adopt(running.state);
      this.#useLane(running.lane);
      this.#watch(running.qemu);
    } finally {
      await claim.release();
    }
  }

  /** Follows a QEMU that this object started. */
  #watch(qemu: QemuProcess): void {
    const files = this.#files();
    if (this.#state?.detached !== true) {
      this.#guard = endWithProgram({ kill: () => qemu.kill(), folder: files.folder });
    }
    this.#rotation = setInterval(() => void rotateConsole(files.console).catch(() => undefined), ROTATE_MS).unref();
    void qemu.exited.then(async (exit) => {
      if (this.#qemu !== qemu) return; // it was stopped on purpose
      this.#stopWatching();
      this.#qemu = null;
      await this.#noteDeath(explainDeath(files, exit));
    });
  }

  #stopWatching(): void {
    clearInterval(this.#rotation);
    this.#guard?.[Symbol.dispose]();
    this.#guard = null;
  }

  async #noteDeath(death: Death): Promise<void> {
    this.#death = death;
    this.#status = death.status;
    await this.#dropLane();
    const state = await loadState(this.#vmId);
    // Another program may have deleted it, or started it anew.
    if (state === null || state.run?.token !== this.#state?.run?.token) return;
    this.#state = { ...state, ...death, run: null, ports: [] };
    await saveState(this.#files(), this.#state).catch(() => undefined); // being deleted in this moment
  }

  #adopt(state: MachineState): void {
    this.#state = state;
    this.#status = state.status === "starting" ? "created" : state.status;
  }

  /** Opens a lane to a machine that another object started. That it fails matters only when a command is to be run. */
  async #attach(): Promise<void> {
    if (this.#status !== "running" || this.#lane !== null) return;
    try {
      this.#useLane(await openFreeLane(this.#files(), { timeoutMs: ATTACH_TIMEOUT_MS }));
      this.#laneFailure = undefined;
    } catch (error) {
      this.#laneFailure = error;
    }
  }

  #useLane(lane: Lane): void {
    this.#lane = lane;
    void lane.connection.closed.then(async (reason) => {
      if (this.#lane !== lane) return;
      this.#laneFailure = reason;
      await this.#dropLane();
      if (this.#qemu !== null) return; // its end is watched for itself
      const { qemu } = this.#state?.run ?? {};
      const deadline = Date.now() + DEATH_GRACE_MS;
      while (qemu && liveness(qemu) === "alive" && Date.now() < deadline) await pause(10);
      if (qemu && liveness(qemu) === "dead" && this.#status === "running") {
        const state = await loadState(this.#vmId);
        // Stopped or deleted by the program that has it, or dead by itself.
        if (state?.status === "stopped" || state === null) this.#status = "stopped";
        else await this.#noteDeath(explainDeath(this.#files(), null));
      }
    });
  }

  async #dropLane(): Promise<void> {
    const lane = this.#lane;
    this.#lane = null;
    await lane?.close();
  }

  #connection(): GuestConnection {
    if (this.#lane !== null) return this.#lane.connection;
    throw this.#status === "running"
      ? new CommandExecutionUnavailableError(`The machine '${this.#vmId}' can't be reached.`, {
          cause: this.#laneFailure,
        })
      : this.#notRunning();
  }

  #notRunning(): CommandExecutionUnavailableError | VMStateError {
    if (this.#death !== null) {
      return new CommandExecutionUnavailableError(`The machine '${this.#vmId}' has ended: ${this.#death.reason}.`, {
        details: { vmId: this.#vmId, reason: this.#death.reason },
        ...(this.#laneFailure === undefined ? {} : { cause: this.#laneFailure }),
      });
    }
    return new CommandExecutionUnavailableError(`The machine '${this.#vmId}' is not running: it is ${this.#status}.`, {
      hint: "Start it first.",
      details: { vmId: this.#vmId, status: this.#status },
    });
  }

  #hold(): Disposable {
    return this.#lane?.hold() ?? { [Symbol.dispose]: () => undefined };
  }

  /** A connection that broke because the machine died is reported with the machine's cause of death. */
  async #explain(error: unknown): Promise<unknown> {
    if (!(error instanceof CommandExecutionUnavailableError)) return error;
    const deadline = Date.now() + DEATH_GRACE_MS;
    while (this.#death === null && this.#status === "running" && Date.now() < deadline) await pause(10);
    if (this.#death === null) return error;
    return new CommandExecutionUnavailableError(`The machine '${this.#vmId}' has ended: ${this.#death.reason}.`, {
      cause: error,
      details: { vmId: this.#vmId, reason: this.#death.reason },
    });
  }

  async #changing<T>(
    act: (files: ReturnType<typeof machineFiles>, state: MachineState) => Promise<{ state: MachineState; value: T }>,
  ): Promise<T> {
    return this.#inTurn(async () => {
      if (this.#status !== "running") throw this.#notRunning();
      const files = this.#files();
      const claim = await waitForClaim(files.lock, CLAIM_TIMEOUT_MS);
      try {
        const current = await loadState(this.#vmId);
        if (current === null) throw new VMNotFoundError(this.#vmId);
        const { state, value } = await act(files, current);
        this.#state = state;
        await saveState(files, state);
        return value;
      } finally {
        await claim.release();
      }
    });
  }

  async #changeEnv(change: (env: Readonly<Record<string, string>>) => Readonly<Record<string, string>>): Promise<void> {
    await this.#changing(async (_, state) => {
      const env = change(state.env);
      using _held = this.#hold();
      await this.#connection().setEnv(env);
      return { state: { ...state, env }, value: undefined };
    });
  }

  async #discard(): Promise<void> {
    if (this.#state === null || this.#deleted) {
      this.#deleted = true;
      return;
    }
    const { folder } = this.#files();
    this.#stopWatching();
    const qemu = this.#qemu;
    this.#qemu = null;
    this.#lane?.connection.close();
    if (qemu !== null) {
      qemu.kill();
      await Promise.race([qemu.exited, pause(DEATH_GRACE_MS * 10)]);
    } else {
      const state = await loadState(this.#vmId);
      if (state !== null) await killQemu(state);
    }
    await this.#dropLane();
    await removeFolder(folder).catch((error: unknown) => {
      throw new HostError("HOST_IO", `The machine's folder '${folder}' can't be removed.`, { cause: error });
    });
    await this.#release?.();
    this.#release = null;
    this.#deleted = true;
    this.#status = "stopped";
  }
}

/** A machine that is there already, for the constructor's private use. */
class AttachedMachine {
  readonly state: MachineState;
  constructor(state: MachineState) {
    this.state = state;
  }
}

function splitStartOptions(options: (VMConfig | VMOptions) & StartOptions) {
  const { timeoutMs, signal } = options;
  const start: StartOptions = { timeoutMs, signal };
  if (timeoutMs === undefined && signal === undefined) return { start, rest: options };
  const { timeoutMs: _t, signal: _s, ...rest } = options;
  return { start, rest };
}

function messageOf(error: unknown): string {
  return error instanceof SmolVMError || error instanceof Error ? error.message : String(error);
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
