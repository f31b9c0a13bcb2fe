/** What a value on the command line names, so that the shell can complete it. */
export type Completes = "image" | "machine" | "forwarded-port" | "path" | "command" | readonly string[];

export interface OptionDescription {
  /** What stands for the value in the help, such as "NAME". An option without it is a switch. */
  readonly value?: string;
  readonly short?: string;
  /** May be given more than once. */
  readonly repeat?: true;
  readonly summary: string;
  readonly completes?: Completes;
}
export type OptionDescriptions = Readonly<Record<string, OptionDescription>>;

export interface PositionalDescription {
  readonly name: string;
  readonly optional?: true;
  readonly repeat?: true;
  readonly completes?: Completes;
}

type OptionValue<O extends OptionDescription> = O extends { value: string }
  ? O extends { repeat: true }
    ? readonly string[]
    : string | undefined
  : boolean;

/** What the user typed, after it was held against the description. */
export interface Input<O extends OptionDescriptions = OptionDescriptions> {
  readonly options: { readonly [K in keyof O]: OptionValue<O[K]> };
  readonly positionals: readonly string[];
  /** What is to run in the guest, word by word as it was typed. */
  readonly guestCommand: readonly string[];
}

/** What every command gets besides its own arguments. */
export interface Invocation {
  /** stdout will carry one JSON envelope: a command writes nothing there itself. */
  readonly json: boolean;
  readonly debug: boolean;
  /** Aborts on Ctrl-C, SIGTERM and SIGHUP. */
  readonly signal: AbortSignal;
}

export interface Outcome {
  /** The payload with `--json`. */
  readonly data?: unknown;
  /** The payload without: written to stdout as it is. */
  readonly text?: string;
  readonly exitCode?: number;
  /** Why `exitCode` is not 0, for the envelope; a command that passes a guest's status on has none. */
  readonly error?: Failure | null;
}

/** An error as the command line shows it. */
export interface Failure {
  readonly exitCode: number;
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly details: Readonly<Record<string, unknown>>;
}

/** One command: its help, its completions and its parser are made from the same description. */
export interface Command<O extends OptionDescriptions = OptionDescriptions> {
  readonly summary: string;
  /** Paragraphs for the help, below the summary. */
  readonly description?: string;
  readonly positionals?: readonly PositionalDescription[];
  /** A command of the guest follows the positionals; nothing of it is read as an option of smolvm. */
  readonly guestCommand?: "required" | "optional";
  readonly options?: O;
  readonly examples?: readonly string[];
  /** Options that other tools have here, as they are typed, and what does the same with smolvm. */
  readonly elsewhere?: Readonly<Record<string, string>>;
  /** The exit status when smolvm itself fails: 1 unless the status belongs to the guest's command. */
  readonly hostFailureStatus?: number;
  run(input: Input<O>, invocation: Invocation): Promise<Outcome>;
}

/** Keeps the types of the options for `run` and forgets them outside, where all commands are alike. */
export function defineCommand<const O extends OptionDescriptions>(command: Command<O>): Command {
  return command;
}
