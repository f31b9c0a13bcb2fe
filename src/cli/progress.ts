import { formatBytes, formatSeconds } from "./output.js";
import { isInteractive, print } from "./terminal.js";

/** What ImageManager reports while an image comes. */
export interface ImageProgress {
  readonly image: string;
  readonly asset: string;
  readonly phase: "download" | "verify" | "done";
  readonly bytes: number;
  readonly total: number | null;
}

interface Bar {
  readonly label: string;
  progress: ImageProgress;
  /** When this phase began, and with how many bytes: a resumed download does not start at zero. */
  since: number;
  first: number;
}

const REDRAW_MS = 100;
const WIDEST_BAR = 24;
/** What stands beside a bar: share, amounts, rate and time left. */
const FIGURES_WIDTH = 60;

/**
 * Lines on stderr that tell how far things are. On a terminal they are redrawn in place and one bar stands for each file;
 * elsewhere a line is printed when a phase begins, and nothing moves.
 */
export class Progress implements Disposable {
  readonly #bars = new Map<string, Bar>();
  readonly #interactive = isInteractive();
  #step: string | null = null;
  #drawn = 0;
  #timer: NodeJS.Timeout | null = null;

  /** Shows what is being done now, in place of what was shown before. */
  step(text: string): void {
    this.#step = text;
    if (!this.#interactive) print(`smolvm: ${text}`);
    else this.#redrawSoon();
  }

  readonly image = (progress: ImageProgress): void => {
    const label = `${progress.image} ${progress.asset}`;
    const bar = this.#bars.get(label);
    const begins = bar === undefined || bar.progress.phase !== progress.phase;
    if (begins) {
      this.#bars.set(label, { label, progress, since: performance.now(), first: progress.bytes });
      if (!this.#interactive) this.#announce(label, progress);
    } else {
      bar.progress = progress;
    }
    if (this.#interactive) this.#redrawSoon();
  };

  /** Only what takes long for sure is worth a line that stays. */
  #announce(label: string, { phase, total }: ImageProgress): void {
    if (phase !== "download") return;
    print(`smolvm: downloading ${label}${total === null ? "" : ` (${formatBytes(total)})`}`);
  }

  #redrawSoon(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#redraw();
    }, REDRAW_MS).unref();
  }

  #redraw(): void {
    const columns = Math.max(20, process.stderr.columns - 1);
    const width = Math.max(0, ...[...this.#bars.keys()].map((label) => label.length));
    const lines = [...this.#bars.values()].map((bar) =>
      barLine(bar, width, Math.min(WIDEST_BAR, columns - width - FIGURES_WIDTH)),
    );
    if (this.#step !== null) lines.push(this.#step);
    this.#erase();
    for (const line of lines) print(line.length > columns ? `${line.slice(0, columns - 1)}…` : line);
    this.#drawn = lines.length;
  }

  #erase(): void {
    if (this.#drawn > 0) process.stderr.write(`\u001b[${this.#drawn}F\u001b[J`);
    this.#drawn = 0;
  }

  /** Takes the lines away, except for the bars of files that were fetched. */
  [Symbol.dispose](): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (!this.#interactive) return;
    this.#step = null;
    if (this.#bars.size > 0) this.#redraw();
    else this.#erase();
    this.#drawn = 0;
  }
}

function barLine(bar: Bar, width: number, barWidth: number): string {
  const { phase, bytes, total } = bar.progress;
  const label = bar.label.padEnd(width);
  if (phase === "done") return `${label}  ✓ ${total === null ? "" : formatBytes(total)}`;
  const share = total === null || total === 0 ? null : Math.min(1, bytes / total);
  const drawn = share === null ? "" : `${barWidth > 4 ? `${drawBar(share, barWidth)} ` : ""}${percent(share)}  `;
  return `${label}  ${drawn}${amount(bytes, total)}  ${phase === "verify" ? "verifying" : speed(bar)}`;
}

function drawBar(share: number, width: number): string {
  const filled = Math.round(share * width);
  return `[${"#".repeat(filled)}${"-".repeat(width - filled)}]`;
}

const percent = (share: number): string => `${String(Math.floor(share * 100)).padStart(3)} %`;

const amount = (bytes: number, total: number | null): string =>
  total === null ? formatBytes(bytes) : `${formatBytes(bytes)} of ${formatBytes(total)}`;

/** The mean rate since the phase began, and the time that is left at that rate. */
function speed({ progress: { bytes, total }, since, first }: Bar): string {
  const seconds = (performance.now() - since) / 1000;
  const rate = (bytes - first) / seconds;
  if (seconds < 0.5 || rate <= 0) return "";
  const left = total === null ? "" : `  ${formatSeconds((total - bytes) / rate)} left`;
  return `${formatBytes(rate)}/s${left}`;
}
