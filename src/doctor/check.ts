export interface Mend {
  /** What a person types or does. */
  readonly say: string;
  /** What smolvm can do by itself, once someone has agreed. */
  readonly fix?: { readonly what: string; run(signal: AbortSignal): Promise<void> };
}

export interface Finding {
  /** "warning": machines run, but something is worth knowing or tidying up. */
  readonly status: "ok" | "warning" | "failure";
  /** What was seen, in one sentence. */
  readonly detail: string;
  readonly mend?: Mend;
}

/** One thing that has to work for machines to run. It is found out by doing it, not by looking whether it could be done. */
export interface Check {
  readonly name: string;
  run(signal: AbortSignal): Promise<Finding>;
}
