import type { Readable } from "node:stream";
import { inspect } from "node:util";

import { OperationTimeoutError, VMNotFoundError, VMStateError } from "../errors.js";
import { guestAddress } from "./furnish.js";
import { runCommand, spawnCommand, type GuestProcess, type RunOptions, type SpawnOptions } from "./command.js";
import { assertKnownFields, assertVmId, integer, invalid, VMConfig } from "./config.js";
import { followConsole, readConsole } from "./console-log.js";
import { assertEnvName, assertEnvVars } from "./environment.js";
import { VMFiles } from "./files.js";
import { machineInfo, type VMInfo } from "./info.js";
import { Machine } from "./lifecycle.js";
import { addPort, removePort } from "./ports.js";
import { sweep } from "./reaper.js";
import type { RunResult } from "./result.js";
import { readOptions, type VMOptions } from "./source.js";
import { loadState, type VMStatus } from "./state.js";

export interface StartOptions {
  /** From the hypervisor's start to a guest that answers, in milliseconds. Default: 60000 under emulation, else 30000. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** For a guest to take its variables, which is one message. */
const SET_ENV_MS = 5000;
/** A day: a timer can't wait for more than three weeks, and nobody waits that long for a boot. */
const MAX_START_MS = 24 * 60 * 60 * 1000;

/**
 * A throwaway virtual machine. Making the object does nothing yet; `start()` boots it. Unless it is `detached` it ends with
 * this program, whatever way that ends. An idle machine doesn't keep the program alive.
 */
export class SmolVM implements AsyncDisposable {
  /** Files in the guest, by the names of `fs/promises`. */
  readonly files: VMFiles;
  readonly #machine: Machine;

  /** @throws ValidationError */
  constructor(options?: VMConfig | VMOptions);
  /** @internal */
  constructor(machine: Machine);
  constructor(options: VMConfig | VMOptions | Machine = {}) {
    this.#machine = options instanceof Machine ? options : new Machine({ wish: readOptions(options) });
    this.files = new VMFiles({
      files: () => this.#machine.connection().files,
      hold: () => this.#machine.hold(),
      explain: (error) => this.#machine.explain(error),
    });
  }

  /**
   * Constructs and starts. When that fails, nothing is left.
   *
   * @throws what the constructor and `start()` throw.
   */
  static async create(options: VMConfig | (VMOptions & StartOptions) = {}): Promise<SmolVM> {
    if (options instanceof VMConfig) {
      const vm = new SmolVM(options);
      await vm.start();
      return vm;
    }
    const { timeoutMs, signal, ...rest } = options;
    const vm = new SmolVM(rest);
    await vm.start({ timeoutMs, signal });
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
    const machine = new Machine({ state });
    await machine.attach();
    return new SmolVM(machine);
  }

  /** Every machine of this user, the oldest first. What programs that are gone left behind is cleared away before. */
  static async list(): Promise<VMInfo[]> {
    const states = await sweep();
    return states.map((state) => machineInfo(state)).sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
  }

  get vmId(): string {
    return this.#machine.vmId;
  }

  get status(): VMStatus {
    return this.#machine.status;
  }

  /** What is known of the machine. Frozen; a new object with each call. */
  get info(): VMInfo {
    const { vmId, status, detached, state, death } = this.#machine;
    const reason = death?.reason ?? state?.reason ?? null;
    return machineInfo({ vmId, detached, ...state, status, reason }, this.#machine.agent);
  }

  /**
   * The guest's IPv4 address. Only this host's forwarded ports lead to it.
   *
   * @throws CommandExecutionUnavailableError when the machine does not run, VMStateError when it has no network.
   */
  getIp(): string {
    const { status, state } = this.#machine;
    if (status !== "running" || state === null) throw this.#machine.notRunning();
    const address = guestAddress(state);
    if (address !== null) return address;
    throw new VMStateError(`The machine '${this.vmId}' has no network.`, {
      hint: 'Create it with network "restricted" or "open".',
    });
  }

  /**
   * Boots the machine; a stopped one keeps its disk.
   *
   * @throws BootError when the guest does not come up in time, HostError, ImageError, ValidationError, VMAlreadyExistsError,
   *   VMStateError when it runs already, or the signal's reason.
   */
  async start(options: StartOptions = {}): Promise<void> {
    assertKnownFields("start", options, ["timeoutMs", "signal"]);
    const { timeoutMs, signal } = options;
    if (timeoutMs !== undefined) integer("timeoutMs", timeoutMs, 1, MAX_START_MS);
    await this.#machine.start({ timeoutMs, signal });
  }

  /** Shuts the guest down, or ends it where it does not comply. The disk is kept; forwarded ports are not. Idempotent. */
  async stop(): Promise<void> {
    await this.#machine.stop();
  }

  /** Ends the machine and removes everything of it. Idempotent. */
  async delete(): Promise<void> {
    await this.#machine.delete();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#machine.delete();
  }

  /** For `console.log`: which machine, and how it is. */
  [inspect.custom](): string {
    return `SmolVM { vmId: '${this.vmId}', status: '${this.status}' }`;
  }

  /** Looks at how the machine is now: another program may have started, stopped, changed or deleted it. */
  async refresh(): Promise<void> {
    await this.#machine.refresh();
  }

  /**
   * Runs a command and waits for it. A string goes to the guest's `/bin/sh -c`, a list is a program and its arguments.
   * A command that fails is no error: see `exitCode` and `ok`. On time-out and abort all that it started is killed.
   *
   * @throws OperationTimeoutError (`details.stdout` and `details.stderr`: what was printed until then), the signal's reason,
   *   CommandExecutionUnavailableError, ValidationError.
   */
  async run(command: string | readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return runCommand(this.#machine, command, options);
  }

  /**
   * Starts a command and gives its streams.
   *
   * @throws CommandExecutionUnavailableError when the machine does not run, ValidationError.
   */
  spawn(command: string | readonly string[], options: SpawnOptions = {}): GuestProcess {
    return spawnCommand(this.#machine, command, options);
  }

  /**
   * Makes a TCP port of the guest reachable at 127.0.0.1 of this host, until it is taken back or the machine stops.
   *
   * @param hostPort default: a free one.
   * @returns the host's port.
   * @throws HostError HOST_PORT_IN_USE, VMStateError.
   */
  async exposeLocal(guestPort: number, hostPort?: number): Promise<number> {
    integer("guestPort", guestPort, 1, 65535);
    if (hostPort !== undefined) integer("hostPort", hostPort, 1, 65535);
    return this.#machine.change((state) => addPort(this.#machine.files, state, guestPort, hostPort ?? 0));
  }

  /** Takes back a port of the host. @throws ValidationError when it is not forwarded. */
  async unexposeLocal(hostPort: number): Promise<void> {
    integer("hostPort", hostPort, 1, 65535);
    await this.#machine.change((state) => removePort(this.#machine.files, state, hostPort));
  }

  /** Sets variables for every later command in the machine, also after it was stopped and started again. */
  async setEnvVars(vars: Readonly<Record<string, string>>): Promise<void> {
    assertEnvVars("envVars", vars);
    await this.#changeEnv((env) => ({ ...env, ...vars }));
  }

  /** Forgets variables; names that are not set are passed over. */
  async unsetEnvVars(names: readonly string[]): Promise<void> {
    if (!Array.isArray(names)) throw invalid("names", names, "a list of names");
    for (const name of names) assertEnvName("names", name);
    await this.#changeEnv((env) => Object.fromEntries(Object.entries(env).filter(([name]) => !names.includes(name))));
  }

  async listEnvVars(): Promise<Record<string, string>> {
    const state = (await this.#machine.loadOwn()) ?? this.#machine.state;
    if (state === null) throw this.#machine.notRunning();
    return { ...state.env };
  }

  /** The guest's console so far, at most its last megabyte. */
  console(): string {
    return readConsole(this.#machine.files.console);
  }

  /** The guest's console: its last megabyte, and then all that comes as it grows, until the machine ends. */
  consoleStream(options: { readonly signal?: AbortSignal | undefined } = {}): Readable {
    return followConsole(this.#machine.files.console, () => this.status !== "running", options.signal);
  }

  async #changeEnv(change: (env: Readonly<Record<string, string>>) => Readonly<Record<string, string>>): Promise<void> {
    await this.#machine.change(async (state, interrupted) => {
      const env = change(state.env);
      using _ = this.#machine.hold();
      const limit = AbortSignal.timeout(SET_ENV_MS);
      try {
        await this.#machine.connection().setEnv(env, { signal: AbortSignal.any([interrupted, limit]) });
      } catch (error) {
        if (error !== limit.reason) throw error;
        throw new OperationTimeoutError("Setting variables", SET_ENV_MS, {
          hint: "The guest does not answer: stop the machine, or delete it.",
        });
      }
      return { state: { ...state, env }, value: undefined };
    });
  }
}
