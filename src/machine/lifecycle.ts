import { setTimeout as sleep } from "node:timers/promises";

import { CommandExecutionUnavailableError, VMNotFoundError, VMStateError } from "../errors.js";
import type { AgentInfo, ExecRequest, GuestConnection, GuestProcess as RemoteProcess } from "../guest/index.js";
import type { Lock } from "../host/lock.js";
import { liveness } from "../host/process.js";
import type { QemuProcess } from "../hypervisor/index.js";
import { boot } from "./boot.js";
import { Channel } from "./channel.js";
import { claimMachineLock } from "./claim.js";
import { keepConsoleShort } from "./console-log.js";
import { within } from "./deadline.js";
import { explainDeath, type Death } from "./death.js";
import { openFreeLane } from "./lanes.js";
import { dropEndedLeases } from "./lease.js";
import { fateOf, isHangUp, saveDeath } from "./loss.js";
import { claimMachine } from "./make.js";
import { endWithProgram, killQemu, sweep } from "./reaper.js";
import { notRunning, runsAlready, unreachable } from "./refusals.js";
import { removeMachine } from "./remove.js";
import type { Wish } from "./source.js";
import {
  loadSame,
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
/** For a call that has lost its connection, to be told why. */
const DEATH_GRACE_MS = 500;
/** A dying QEMU closes its sockets first, and then gives the guest's memory back: gigabytes take a while on a busy host. */
const DYING_MS = 10_000;

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
  #shortening: Disposable | undefined;
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
      // What others left is no reason for this one not to start, nor for a machine that runs to keep its caller waiting.
      sweep().catch(() => undefined);
      const isNew = this.#state === null;
      try {
        if (isNew) await this.#make(either);
        await this.#boot({ timeoutMs, signal: either });
      } catch (error) {
        // It runs by now where another program was quicker. What remains else is for the next sweep: that it did not start matters.
        if (isNew && (this.#status as VMStatus) !== "running") await this.#remove().catch(() => undefined);
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
        const state = await loadSame(this.#state);
        if (state === null) {
          await this.#vanish();
          return;
        }
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
    // What is written to files that stay must arrive there. Where that fails it is ended as it is.
    if (writesThrough) await this.stop().catch(() => undefined);
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
      const state = await loadSame(this.#state);
      if (state === null) {
        await this.#vanish();
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

  /** What other programs have made of it. Null when it is deleted, also if another machine has its name by now. */
  async loadOwn(): Promise<MachineState | null> {
    return this.#state === null ? null : loadSame(this.#state);
  }

  /** Changes what is known of a running machine while no other program does. The signal says that it is being stopped. */
  change<T>(
    act: (state: MachineState, signal: AbortSignal) => Promise<{ readonly state: MachineState; readonly value: T }>,
  ): Promise<T> {
    return this.#turns.interruptible(async (interrupted) => {
      if (this.#status !== "running") throw this.notRunning();
      const lock = await claimMachineLock(this.files.lock, CLAIM_TIMEOUT_MS, interrupted);
      try {
        const current = await this.loadOwn();
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
    throw unreachable(this.vmId, failure);
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
    while (this.#death === null && this.#status === "running" && Date.now() < deadline) await sleep(10);
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
      const state = await this.loadOwn();
      if (state === null) throw new VMNotFoundError(this.vmId);
      if (state.run?.qemu && liveness(state.run.qemu) !== "dead") {
        // Another program was quicker. From here on this object can use it as well.
        this.#adopt(state);
        await this.#attach();
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
    this.#shortening = keepConsoleShort(this.files.console);
    const ended = qemu.exited.then(async (exit) => {
      if (this.#qemu !== qemu) return; // it was ended on purpose
      this.#leave();
      await this.#noteDeath(explainDeath(this.files, exit));
    });
    ended.catch(() => undefined); // nobody waits for this, and the status is set before anything can fail
  }

  /** From now on the end of QEMU is no news. */
  #leave(): void {
    this.#shortening?.[Symbol.dispose]();
    this.#qemu = null;
  }

  async #noteDeath(death: Death): Promise<void> {
    this.#death = death;
    this.#status = death.status;
    this.#channel.drop();
    const ended = this.#state;
    // In turn with the rest: nothing of it goes on behind the back of a `delete` that has resolved.
    await this.#turns.take(async () => {
      if (ended === null || this.#state?.run?.token !== ended.run?.token) return;
      const noted = (await loadSame(ended)) && (await saveDeath(this.files, ended, death, CLAIM_TIMEOUT_MS));
      if (noted !== null) this.#state = noted;
      // Whoever ended it may have been deleting it, and is through by now.
      else if ((await loadSame(ended)) === null) await this.#vanish();
    });
  }

  #adopt(state: MachineState): void {
    this.#state = state;
    this.#status = state.status === "starting" ? "created" : state.status;
  }

  async #attach(): Promise<void> {
    if (this.#status !== "running" || this.#channel.lane !== null) return;
    try {
      this.#channel.use(await openFreeLane(this.files, { timeoutMs: ATTACH_TIMEOUT_MS }));
      this.#shortening = keepConsoleShort(this.files.console);
    } catch (error) {
      this.#channel.failed(error as Error);
    }
  }

  /** The guest has hung up. Mostly its QEMU is ending; if not, its agent is not to be trusted any more. */
  async #lost(reason: Error): Promise<void> {
    const own = this.#qemu;
    if (own !== null) {
      if (isHangUp(reason)) await within(own.exited, DYING_MS);
      if (this.#qemu !== own) return; // its end was noted, or it was ended on purpose
      this.#leave();
      own.kill();
      await this.#noteDeath({ status: "error", reason: `its agent failed: ${reason.message.replace(/\.$/, "")}` });
      return;
    }
    this.#leave();
    const lost = this.#state;
    if (lost === null) return;
    const isOver = (): boolean =>
      this.#status !== "running" || this.#channel.lane !== null || this.#state?.run?.token !== lost.run?.token;
    const fate = await fateOf(lost, { hungUp: isHangUp(reason), isOver });
    if (fate === null || isOver()) return;
    if (fate === "died") await this.#noteDeath(explainDeath(this.files, null));
    else if (fate === "left") this.#status = "stopped";
    else {
      if (fate.status === "error") this.#death = { status: fate.status, reason: fate.reason };
      this.#adopt(fate);
    }
  }

  /** Ends what runs and removes everything. */
  async #remove(): Promise<void> {
    const qemu = this.#qemu;
    this.#leave();
    this.#channel.drop();
    if (this.#state !== null) await removeMachine(this.files, this.#state, qemu, CLAIM_TIMEOUT_MS);
    await this.#release();
  }

  /** Another program has deleted it. */
  async #vanish(): Promise<void> {
    this.#qemu?.kill();
    this.#leave();
    this.#channel.drop();
    this.#death = null;
    this.#deleted = true;
    this.#status = "stopped";
    await this.#release();
  }

  /** Gives back what this program holds of a machine that is gone. */
  async #release(): Promise<void> {
    this.#endsWithProgram?.[Symbol.dispose]();
    if (this.#releaseImage !== null) await this.#releaseImage();
    else if (this.#state !== null) await dropEndedLeases([this.#state.cacheDir]);
    this.#releaseImage = null;
    this.#state = null;
  }
}
