import { printableNote } from "./printable.js";

/** What an error knows besides its message: plain values only, safe to log and to serialise. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

export interface ErrorOptions {
  /** The exact next step that mends it: a command, a setting or a call. */
  readonly hint?: string | undefined;
  readonly details?: ErrorDetails | undefined;
  readonly cause?: unknown;
}

/**
 * Base of every error that leaves the library.
 * `code` is stable and meant for programs; `message` and `hint` are meant for people.
 */
export class SmolVMError extends Error {
  readonly code: string;
  // Declared only: an error without a hint has no such property, not one that is undefined.
  declare readonly hint?: string;
  readonly details: ErrorDetails;

  constructor(code: string, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options.hint !== undefined) this.hint = options.hint;
    this.details = Object.freeze({ ...options.details });
  }

  static {
    // On the prototype, so that subclasses and stack traces show their own names without an own property each.
    Object.defineProperty(this.prototype, "name", { value: "SmolVMError", configurable: true, writable: true });
  }
}

function named(constructor: { prototype: Error; name: string }): void {
  Object.defineProperty(constructor.prototype, "name", { value: constructor.name, configurable: true, writable: true });
}

/** An argument or a configuration is wrong. The message names the field, the value and what is allowed. */
export class ValidationError extends SmolVMError {
  constructor(message: string, options?: ErrorOptions) {
    super("VALIDATION", message, options);
  }
  static {
    named(this);
  }
}

export type ImageErrorCode =
  | "IMAGE_UNKNOWN"
  | "IMAGE_DOWNLOAD_FAILED"
  | "IMAGE_CHECKSUM_MISMATCH"
  | "IMAGE_NOT_CACHED"
  | "IMAGE_NO_SPACE"
  | "IMAGE_IN_USE"
  | "IMAGE_BUILD_FAILED"
  | "IMAGE_INVALID";

/** An image could not be found, fetched, verified, built or stored. */
export class ImageError extends SmolVMError {
  declare readonly code: ImageErrorCode;
  // Not useless: it narrows the codes that may be given.
  // eslint-disable-next-line @typescript-eslint/no-useless-constructor
  constructor(code: ImageErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
  static {
    named(this);
  }
}

export type HostErrorCode =
  | "HOST_TOOL_MISSING"
  | "HOST_TOOL_FAILED"
  | "HOST_PERMISSION"
  | "HOST_ACCELERATOR"
  | "HOST_UNSUPPORTED"
  | "HOST_NO_SPACE"
  | "HOST_PORT_IN_USE"
  | "HOST_IO";

/** The host lacks something: QEMU, a tool, a permission, working virtualization. `hint` is the command that mends it. */
export class HostError extends SmolVMError {
  declare readonly code: HostErrorCode;
  // eslint-disable-next-line @typescript-eslint/no-useless-constructor -- as above
  constructor(code: HostErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
  static {
    named(this);
  }
}

/** No machine of that id exists. */
export class VMNotFoundError extends SmolVMError {
  constructor(vmId: string, options?: ErrorOptions) {
    super("VM_NOT_FOUND", `No machine with id '${vmId}'.`, {
      hint: "List the machines with: smolvm ls",
      ...options,
      details: { vmId, ...options?.details },
    });
  }
  static {
    named(this);
  }
}

/** A machine of that id exists already. */
export class VMAlreadyExistsError extends SmolVMError {
  constructor(vmId: string, options?: ErrorOptions) {
    super("VM_ALREADY_EXISTS", `A machine with id '${vmId}' already exists.`, {
      hint: `Choose another vmId, or delete it with: smolvm rm ${vmId}`,
      ...options,
      details: { vmId, ...options?.details },
    });
  }
  static {
    named(this);
  }
}

/** The machine is not in a state that allows the operation. */
export class VMStateError extends SmolVMError {
  constructor(message: string, options?: ErrorOptions) {
    super("VM_STATE", message, options);
  }
  static {
    named(this);
  }
}

export interface BootFailure extends ErrorOptions {
  /** How far the machine came: "spawn", "kernel", "agent", "configure". */
  readonly phase: string;
  /** The last lines of the guest's console, oldest first. */
  readonly consoleTail: readonly string[];
  /** The accelerator in use: "kvm", "hvf" or "tcg". */
  readonly accelerator: string;
}

/** The guest did not come up. */
export class BootError extends SmolVMError {
  readonly phase: string;
  readonly consoleTail: readonly string[];
  readonly accelerator: string;

  constructor(message: string, failure: BootFailure) {
    const { phase, consoleTail, accelerator, details, ...options } = failure;
    super("BOOT_FAILED", message, { ...options, details: { phase, accelerator, consoleTail, ...details } });
    this.phase = phase;
    this.consoleTail = Object.freeze([...consoleTail]);
    this.accelerator = accelerator;
  }
  static {
    named(this);
  }
}

/** There is no channel to the guest: the machine is not started, has died, or its agent is missing. */
export class CommandExecutionUnavailableError extends SmolVMError {
  constructor(message: string, options?: ErrorOptions) {
    super("COMMAND_EXECUTION_UNAVAILABLE", message, options);
  }
  static {
    named(this);
  }
}

/** A deadline passed. */
export class OperationTimeoutError extends SmolVMError {
  /** What was waited for, such as "start", "run" or "stop". */
  readonly operation: string;
  /** The deadline in milliseconds. */
  readonly timeoutMs: number;

  constructor(operation: string, timeoutMs: number, options?: ErrorOptions) {
    super("OPERATION_TIMEOUT", `${operation} did not finish within ${timeoutMs} ms.`, {
      ...options,
      details: { operation, timeoutMs, ...options?.details },
    });
    this.operation = operation;
    this.timeoutMs = timeoutMs;
  }
  static {
    named(this);
  }
}

/** A file operation in the guest failed. `code` is the errno name that the guest's kernel gave, such as "ENOENT". */
export class GuestFileError extends SmolVMError {
  readonly path: string;

  constructor(errno: string, operation: string, path: string, options?: ErrorOptions) {
    // Below a folder that is copied the names are the guest's.
    super(errno, `${errno}: ${operation} '${printableNote(path, 1024)}' in the guest`, {
      ...options,
      details: { operation, path, ...options?.details },
    });
    this.path = path;
  }
  static {
    named(this);
  }
}
