import type { Readable, Writable } from "node:stream";

/** What the agent says about itself and its machine when a connection opens. */
export interface AgentInfo {
  /** The agent's own version: that of the package it was built with. */
  readonly version: string;
  /** The protocol version that this connection speaks. */
  readonly protocol: number;
  /** The guest kernel's release, such as "6.1.0-56-cloud-amd64". */
  readonly kernel: string;
  /** The guest's architecture as its kernel names it: "x86_64" or "aarch64". */
  readonly arch: string;
  /** True when the agent is the machine's first process; false when it was started for a test. */
  readonly init: boolean;
  /** Number of the lane that this connection goes through. */
  readonly lane: number;
  /** True once `configure` has succeeded on any lane since boot. */
  readonly configured: boolean;
}

export interface GuestNetwork {
  /** IPv4 address with prefix length, such as "10.0.2.15/24". */
  readonly address: string;
  readonly gateway: string | null;
  /** Name server's IPv4 address. */
  readonly dns: string | null;
}

export interface GuestMount {
  /** A device in the guest, such as "/dev/vdb". */
  readonly source: string;
  /** Where it goes; made if it isn't there. */
  readonly target: string;
  /** File system type, such as "ext4". */
  readonly type: string;
  readonly readOnly?: boolean;
}

export interface GuestConfiguration {
  /** Null leaves the image's own. */
  readonly hostname: string | null;
  /** Environment of every later command, below the command's own. */
  readonly env: Readonly<Record<string, string>>;
  /** Null brings up only the loopback interface. */
  readonly network: GuestNetwork | null;
  /** Milliseconds since 1970; null leaves the guest's clock. */
  readonly clockMs: number | null;
  /** Random bytes (at least 32) that the guest's generator is seeded with; null for none. */
  readonly entropy: Uint8Array | null;
  readonly mounts: readonly GuestMount[];
}

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

export interface ExecRequest {
  /** A string goes to `/bin/sh -c`; an array is the argument vector, with no shell. */
  readonly command: string | readonly string[];
  /** On top of the machine's environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Default: the user's home if it exists, else "/". */
  readonly cwd?: string | undefined;
  /** "name", "uid", "name:group" or "uid:gid". Default: root. */
  readonly user?: string | undefined;
  /** A controlling terminal of that size: stdout and stderr are then one stream, `stdout`. */
  readonly tty?: TerminalSize | undefined;
  /** True gives the command a pipe; false (the default, without a tty) gives it /dev/null. */
  readonly stdin?: boolean | undefined;
}

export interface ExitStatus {
  /** Null when a signal ended the command. 127: no such program, 126: it can't be run, as shells have it. */
  readonly exitCode: number | null;
  /** Such as "SIGKILL"; null when the command exited by itself. */
  readonly signal: string | null;
}

/** A command in the guest. Streams of a command whose machine dies are destroyed with the same error that `exit` rejects with. */
export interface GuestProcess {
  /** The pid in the guest once it runs. Rejects as `exit` does when the command could not be started. */
  readonly started: Promise<number>;
  /** Null unless asked for. */
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  /** Ends at once when the command has a terminal. */
  readonly stderr: Readable;
  /**
   * When the main process has ended and all it wrote has been received (not: read). Output of processes left in the background
   * that still hold the pipes is collected for a short grace and discarded afterwards.
   *
   * @throws CommandExecutionUnavailableError when the connection ends first.
   * @throws ValidationError when the user does not exist in the guest.
   * @throws GuestFileError when `cwd` can't be entered.
   */
  readonly exit: Promise<ExitStatus>;
  /** Sends a signal to the command's process group; a no-op once it has ended. Default "SIGTERM". */
  kill(signal?: NodeJS.Signals): void;
  /** Kills everything that the command started, also what detached itself. `exit` then settles. */
  killTree(): void;
  /** A no-op without a terminal. */
  resize(size: TerminalSize): void;
}

export type FileKind = "file" | "directory" | "symlink" | "fifo" | "socket" | "char" | "block" | "unknown";

export interface GuestStat {
  readonly kind: FileKind;
  /** Permission bits, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  readonly ino: number;
  readonly dev: number;
  readonly atimeMs: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
}

export interface GuestDirent {
  readonly name: string;
  readonly kind: FileKind;
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface ReadOptions extends CallOptions {
  /** First byte, default 0. */
  readonly start?: number | undefined;
  /** At most this many bytes; default: to the end. */
  readonly length?: number | undefined;
}

export interface ReadFileOptions extends ReadOptions {
  /** The most bytes that are taken into memory; more is EFBIG. Default 268435456 (256 MiB). */
  readonly maxBytes?: number | undefined;
}

export interface WriteOptions extends CallOptions {
  /** Permission bits of a new file before the guest's umask of 022 is left aside; default 0o644. */
  readonly mode?: number | undefined;
  /** "replace" (default) truncates, "append" adds at the end, "exclusive" fails with EEXIST. */
  readonly flag?: "replace" | "append" | "exclusive" | undefined;
  /** Writes beside the target and renames at the end, so that no reader sees half of it. Only with "replace". Default false. */
  readonly atomic?: boolean | undefined;
  /** fsync before success is reported. Default false. */
  readonly sync?: boolean | undefined;
}

/** File operations in the guest, as root. All paths are absolute. Failures are GuestFileErrors with errno names. */
export interface GuestFiles {
  /** Streams a file; an error (also of opening it) destroys the stream. Destroying the stream ends the guest's side. */
  createReadStream(path: string, options?: ReadOptions): Readable;
  /** `finish` means that the guest has it all; destroying the stream early abandons it (an atomic target stays untouched). */
  createWriteStream(path: string, options?: WriteOptions): Writable;
  readFile(path: string, options?: ReadFileOptions): Promise<Buffer>;
  writeFile(path: string, data: Uint8Array | string, options?: WriteOptions): Promise<void>;
  readdir(path: string, options?: CallOptions): Promise<GuestDirent[]>;
  stat(path: string, options?: CallOptions): Promise<GuestStat>;
  lstat(path: string, options?: CallOptions): Promise<GuestStat>;
  exists(path: string, options?: CallOptions): Promise<boolean>;
  mkdir(
    path: string,
    options?: CallOptions & { recursive?: boolean | undefined; mode?: number | undefined },
  ): Promise<void>;
  rm(
    path: string,
    options?: CallOptions & { recursive?: boolean | undefined; force?: boolean | undefined },
  ): Promise<void>;
  rename(from: string, to: string, options?: CallOptions): Promise<void>;
  chmod(path: string, mode: number, options?: CallOptions): Promise<void>;
  chown(path: string, uid: number, gid: number, options?: CallOptions): Promise<void>;
  lchown(path: string, uid: number, gid: number, options?: CallOptions): Promise<void>;
  /** Times in milliseconds since 1970, fractions allowed. */
  utimes(path: string, atimeMs: number, mtimeMs: number, options?: CallOptions): Promise<void>;
  lutimes(path: string, atimeMs: number, mtimeMs: number, options?: CallOptions): Promise<void>;
  symlink(target: string, path: string, options?: CallOptions): Promise<void>;
  readlink(path: string, options?: CallOptions): Promise<string>;
  link(existing: string, path: string, options?: CallOptions): Promise<void>;
  truncate(path: string, length?: number, options?: CallOptions): Promise<void>;
}

/** One lane's connection to the agent. Everything on it fails at once, with the cause, when it closes. */
export interface GuestConnection {
  readonly agent: AgentInfo;
  readonly files: GuestFiles;
  /** Settles with the reason when the connection is over, whoever ended it; never rejects. */
  readonly closed: Promise<Error>;
  configure(configuration: GuestConfiguration, options?: CallOptions): Promise<void>;
  /** Replaces the environment of later commands. */
  setEnv(env: Readonly<Record<string, string>>, options?: CallOptions): Promise<void>;
  exec(request: ExecRequest): GuestProcess;
  /** Writes all the guest's dirty pages to its disks. */
  sync(options?: CallOptions): Promise<void>;
  /**
   * Makes the root file system, if it is an ext4, as large as its disk.
   *
   * @throws CommandExecutionUnavailableError with the errno in its details, EOPNOTSUPP for other file systems.
   */
  growRoot(options?: CallOptions): Promise<void>;
  /** Round-trip time in milliseconds. */
  ping(options?: CallOptions): Promise<number>;
  /** Ends all processes, syncs, unmounts and powers off. Resolves when the guest has begun; the connection closes after. */
  powerOff(options?: CallOptions): Promise<void>;
  /** Ends the connection; commands that still run on it are killed by the guest. Idempotent. */
  close(): void;
}

export interface ConnectOptions {
  readonly signal?: AbortSignal | undefined;
  /** Time for the handshake. Default: no limit but the stream's end. */
  readonly timeoutMs?: number | undefined;
  /**
   * True when nobody has used the lane before, as while a machine boots: there is nothing of an earlier client to get past, so the
   * greeting is sent once. Default false.
   */
  readonly fresh?: boolean | undefined;
}
