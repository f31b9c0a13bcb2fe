import { CommandExecutionUnavailableError, SmolVMError, VMNotFoundError, VMStateError } from "../errors.js";
import type { AgentInfo, ExecRequest, GuestConnection, GuestProcess as RemoteProcess } from "../guest/index.js";
import type { Lock } from "../host/lock.js";
import { liveness } from "../host/process.js";
import type { QemuProcess } from "../hypervisor/index.js";
import { boot } from "./boot.js";
import { Channel } from "./channel.js";
import { claimMachineLock } from "./claim.js";
import { rotateConsole } from "./console-log.js";
import { within } from "./deadline.js";
import { explainDeath, type Death } from "./death.js";
import { openFreeLane } from "./lanes.js";
import { dropEndedLeases } from "./lease.js";
import { claimMachine } from "./make.js";
import { endWithProgram, killQemu, sweep, untilGone } from "./reaper.js";
import { notRunning, runsAlready } from "./refusals.js";
import { removeMachine } from "./remove.js";
import type { Wish } from "./source.js";
import {
  loadState,
  machineFiles,
  machineFolder,
  saveState,
  type MachineFiles,
  type MachineState,
  type VMStatus,
} from "./state.js";
import { stopRunning } from "./stop.js";
import { Turns } from "./turns.js";

/** How long another program's start or stop of the same machine is waited for. */
const CLAIM_TIMEOUT_MS = 90_000;
const ATTACH_TIMEOUT_MS = 5000;
const ROTATE_MS = 2000;
/** A dying QEMU closes its sockets a moment before the system tells that it is gone. */
const DEATH_GRACE_MS = 500;

export interface BootLimits {
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal | undefined;
}

/** One machine as this program sees it: what it is, whether it runs, and the way in. Changes happen one after the other. */
export class Machine {
  readonly vmId: string;
  readonly files: MachineFiles;
  readonly #wish: Wish | null;
  #state: MachineState | null;
  #status: VMStatus = "created";
  #death: Death | null = null;
  #deleted = false;
  /** Only where this object started it. */
  #qemu: QemuProcess | null = null;
  readonly #channel = new Channel((reason) => this.#lost(reason));
  #releaseImage: (() => Promise<void>) | null = null;
  #endsWithProgram: Disposable | null = null;
  #rotation: NodeJS.Timeout | undefined;
  /** Held while it boots, and given back when this program ends meanwhile. */
  #lock: Lock | null = null;
  readonly #turns: Turns;

  /** A machine that is to be made, or one that is there already. */
  constructor(origin: { readonly wish: Wish } | { readonly state: MachineState }) {
    const isNew = "wish" in origin;
    this.#wish = isNew ? origin.wish : null;
    this.#state = isNew ? null : origin.state;
    this.vmId = isNew ? origin.wish.vmId : origin.state.vmId;
    this.files = machineFiles(machineFolder(this.vmId));
    this.#turns = new Turns(`Work on the machine '${this.vmId}'`);
    if (!isNew) this.#adopt(origin.state);
  }

  get status(): VMStatus {
    return this.#status;
  }

  /** Null before it is made and after it is deleted. */
  get state(): MachineState | null {
    return this.#state;
  }

  get death(): Death | null {
    return this.#death;
  }

  /** What the guest's agent has said of itself, while there is a connection. */
  get agent(): AgentInfo | undefined {
    return this.#channel.agent;
  }

  get detached(): boolean {
    return this.#state?.detached ?? this.#wish?.detached ?? false;
  }

  start({ timeoutMs, signal }: BootLimits): Promise<void> {
    return this.#turns.interruptible(async (interrupted) => {
      signal?.throwIfAborted();
      if (this.#deleted) throw new VMStateError(`The machine '${this.vmId}' was deleted.`);
      if (this.#status === "running") throw runsAlready(this.vmId);
      const either = signal === undefined ? interrupted : AbortSignal.any([signal, interrupted]);
      const sweeping = sweep().catch(() => undefined); // what others left is no reason for this one not to start
      const isNew = this.#state === null;
      try {
        if (isNew) await this.#make(either);
        await this.#boot({ timeoutMs, signal: either });
        await sweeping;
      } catch (error) {
        // What remains then is for the next sweep. That it did not start is what matters.
        if (isNew) await this.#remove().catch(() => undefined);
        if (!(error instanceof VMStateError)) this.#status = "error";
        throw error;
      }
    });
  }

  stop(): Promise<void> {
    this.#interrupt("stopped");
    return this.#turns.take(async () => {
      if (this.#state === null) return;
      const lock = await claimMachineLock(this.files.lock, CLAIM_TIMEOUT_MS);
      try {
        const state = await loadState(this.vmId);
        // Deleted by another program, which may have made another one of that name.
        if (state === null || state.createdAt !== this.#state.createdAt) return;
        const qemu = this.#qemu;
        this.#leave();
        // Told beforehand: other programs lose their connections and are to know that it is meant.
        await saveState(this.files, { ...state, status: "stopped", reason: null });
        if (state.run !== null) await stopRunning(this.files, state, { qemu, lane: this.#channel.lane });
        this.#channel.drop();
        this.#death = null;
        const stopped: MachineState = { ...state, status: "stopped", reason: null, run: null, ports: [] };
        this.#adopt(stopped);
        await saveState(this.files, stopped);
      } finally {
        lock.release();
      }
    });
  }

  async delete(): Promise<void> {
    this.#interrupt("deleted");
    const writesThrough =
      this.#state?.diskMode === "shared" || this.#state?.extraDrives.some((drive) => !drive.readOnly) === true;
    // What is written to files that stay must arrive there; a private disk goes away anyway.
    if (writesThrough) await this.stop();
    await this.#turns.take(async () => {
      await this.#remove();
      this.#deleted = true;
      this.#status = "stopped";
    });
  }

  /** Reads what other programs have made of it. */
  refresh(): Promise<void> {
    return this.#turns.take(async () => {
      if (this.#state === null) return;
      await sweep();
      const state = await loadState(this.vmId);
      if (state === null) {
        this.#leave();
        this.#channel.drop();
        this.#state = null;
        this.#deleted = true;
        this.#status = "stopped";
        return;
      }
      const sameRun = state.run?.token === this.#state.run?.token;
      if (sameRun && this.#qemu !== null) {
        this.#state = { ...state, status: this.#state.status };
        return;
      }
      if (!sameRun) {
        this.#leave();
        this.#channel.drop();
      }
      this.#adopt(state);
      await this.#attach();
    });
  }

  /** Opens a lane to a machine that another object started. That it fails matters only when a command is to be run. */
  attach(): Promise<void> {
    return this.#turns.take(() => this.#attach());
  }

  /** Changes what is known of a running machine while no other program does. The signal says that it is being stopped. */
  change<T>(
    act: (state: MachineState, signal: AbortSignal) => Promise<{ readonly state: MachineState; readonly value: T }>,
  ): Promise<T> {
    return this.#turns.interruptible(async (interrupted) => {
      if (this.#status !== "running") throw this.notRunning();
      const lock = await claimMachineLock(this.files.lock, CLAIM_TIMEOUT_MS, interrupted);
      try {
        const current = await loadState(this.vmId);
        if (current === null) throw new VMNotFoundError(this.vmId);
        const { state, value } = await act(current, interrupted);
        this.#state = state;
        await saveState(this.files, state);
        return value;
      } finally {
        lock.release();
      }
    });
  }

  /** @throws CommandExecutionUnavailableError */
  connection(): GuestConnection {
    const { connection, failure } = this.#channel;
    if (connection !== null) return connection;
    if (this.#status !== "running") throw this.notRunning();
    throw new CommandExecutionUnavailableError(`The machine '${this.vmId}' can't be reached.`, {
      cause: failure ?? undefined,
      hint: failure instanceof SmolVMError ? failure.hint : undefined,
      details: { vmId: this.vmId },
    });
  }

  exec(request: ExecRequest): RemoteProcess {
    return this.connection().exec(request);
  }

  hold(): Disposable {
    return this.#channel.hold();
  }

  /** A connection that broke because the machine died is reported with the machine's cause of death. */
  async explain(error: unknown): Promise<unknown> {
    if (!(error instanceof CommandExecutionUnavailableError)) return error;
    const deadline = Date.now() + DEATH_GRACE_MS;
    while (this.#death === null && this.#status === "running" && Date.now() < deadline) await pause(10);
    return this.#status === "running" ? error : this.notRunning(error);
  }

  /** The error of calls that need a running machine. */
  notRunning(cause: unknown = this.#channel.failure ?? undefined): CommandExecutionUnavailableError {
    return notRunning({ vmId: this.vmId, status: this.#status, deleted: this.#deleted, death: this.#death, cause });
  }

  #interrupt(how: "stopped" | "deleted"): void {
    const doing = this.#status === "running" ? "was being changed" : "started";
    this.#turns.interrupt(new VMStateError(`The machine '${this.vmId}' was ${how} while it ${doing}.`));
  }

  async #make(signal: AbortSignal): Promise<void> {
    if (this.#wish === null) throw new VMNotFoundError(this.vmId);
    const { state, release } = await claimMachine(this.#wish, signal);
    this.#releaseImage = release;
    this.#state = state;
    if (!state.detached) {
      this.#endsWithProgram = endWithProgram({
        folder: this.files.folder,
        createdAt: state.createdAt,
        kill: () => this.#qemu?.kill(),
        release: () => {
          this.#lock?.release();
          void release();
        },
      });
    }
  }

  async #boot(limits: BootLimits): Promise<void> {
    const lock = await claimMachineLock(this.files.lock, CLAIM_TIMEOUT_MS, limits.signal);
    this.#lock = lock;
    try {
      const state = await loadState(this.vmId);
      if (state === null) throw new VMNotFoundError(this.vmId);
      if (state.run?.qemu && liveness(state.run.qemu) !== "dead") {
        this.#adopt(state);
        throw runsAlready(this.vmId);
      }
      // A start that was cut short may have left a QEMU of which nothing is known but its token.
      await killQemu(state);
      this.#death = null;
      try {
        const running = await boot(this.files, state, { ...limits, onSpawn: (qemu) => (this.#qemu = qemu) });
        this.#adopt(running.state);
        this.#channel.use(running.lane);
        this.#watch(running.qemu);
      } catch (error) {
        this.#qemu = null;
        const reason = error instanceof Error ? error.message : String(error);
        // A machine that is new is about to be removed; of another one its state tells why it is down.
        await saveState(this.files, { ...state, status: "error", reason, run: null, ports: [] }).catch(() => undefined);
        throw error;
      }
    } finally {
      this.#lock = null;
      lock.release();
    }
  }

  /** Follows a QEMU that this object started. */
  #watch(qemu: QemuProcess): void {
    this.#boundConsole();
    const ended = qemu.exited.then(async (exit) => {
      if (this.#qemu !== qemu) return; // it was ended on purpose
      this.#leave();
      await this.#noteDeath(explainDeath(this.files, exit));
    });
    ended.catch(() => undefined); // nobody waits for this, and the status is set before anything can fail
  }

  /** Whoever is connected to a machine keeps its console short: a detached one's maker may be gone. */
  #boundConsole(): void {
    clearInterval(this.#rotation);
    const timer = setInterval(() => {
      if (this.#channel.lane === null) clearInterval(timer);
      else rotateConsole(this.files.console).catch(() => undefined); // tried again soon
    }, ROTATE_MS).unref();
    this.#rotation = timer;
  }

  /** From now on the end of QEMU is no news. */
  #leave(): void {
    clearInterval(this.#rotation);
    this.#qemu = null;
  }

  async #noteDeath(death: Death): Promise<void> {
    this.#death = death;
    this.#status = death.status;
    this.#channel.drop();
    const token = this.#state?.run?.token;
    // In turn with the rest: nothing of it goes on behind the back of a `delete` that has resolved.
    await this.#turns.take(() => this.#saveDeath(death, token));
  }

  async #saveDeath(death: Death, token: string | undefined): Promise<void> {
    if ((await loadState(this.vmId)) === null) return;
    const lock = await claimMachineLock(this.files.lock, CLAIM_TIMEOUT_MS);
    try {
      const state = await loadState(this.vmId);
      // Another program may have deleted it, or started it anew.
      if (state === null || state.run === null || state.run.token !== token) return;
      const noted = { ...state, ...death, run: null, ports: [] };
      await saveState(this.files, noted);
      if (this.#state?.run?.token === token) this.#state = noted;
    } finally {
      lock.release();
    }
  }

  #adopt(state: MachineState): void {
    this.#state = state;
    this.#status = state.status === "starting" ? "created" : state.status;
  }

  async #attach(): Promise<void> {
    if (this.#status !== "running" || this.#channel.lane !== null) return;
    try {
      this.#channel.use(await openFreeLane(this.files, { timeoutMs: ATTACH_TIMEOUT_MS }));
      this.#boundConsole();
    } catch (error) {
      this.#channel.failed(error as Error);
    }
  }

  /** The guest has hung up. Mostly its QEMU has ended; if not, its agent is not to be trusted any more. */
  async #lost(reason: Error): Promise<void> {
    const own = this.#qemu;
    if (own !== null) {
      await within(own.exited, DEATH_GRACE_MS);
      if (this.#qemu !== own) return; // its end was noted, or it was ended on purpose
      this.#leave();
      own.kill();
      await this.#noteDeath({ status: "error", reason: `its agent failed: ${reason.message.replace(/\.$/, "")}` });
      return;
    }
    const identity = this.#state?.run?.qemu;
    if (!identity || !(await untilGone(identity, DEATH_GRACE_MS)) || this.#status !== "running") return;
    const state = await loadState(this.vmId);
    // Stopped or deleted by the program that has it, or dead by itself.
    if (state === null || state.status === "stopped") this.#status = "stopped";
    else await this.#noteDeath(explainDeath(this.files, null));
  }

  /** Ends what runs and removes everything. */
  async #remove(): Promise<void> {
    const qemu = this.#qemu;
    this.#leave();
    this.#channel.drop();
    if (this.#state !== null) await removeMachine(this.files, this.#state, qemu, CLAIM_TIMEOUT_MS);
    this.#endsWithProgram?.[Symbol.dispose]();
    if (this.#releaseImage !== null) await this.#releaseImage();
    else if (this.#state !== null) await dropEndedLeases([this.#state.cacheDir]);
    this.#releaseImage = null;
    this.#state = null;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
