/**
 * Hands every key to the guest, Ctrl-C too, until it is disposed. The terminal is put back however the program ends, short of
 * a signal that no program can catch.
 */
export function rawTerminal(): Disposable {
  const restore = (): void => {
    if (process.stdin.isTTY && process.stdin.isRaw) process.stdin.setRawMode(false);
  };
  process.stdin.setRawMode(true);
  process.once("exit", restore);
  return {
    [Symbol.dispose]() {
      process.off("exit", restore);
      restore();
    },
  };
}

/** Of the terminal that shows the output. None, and one that was never told its size, counts as one of the classic size. */
export function terminalSize(): { cols: number; rows: number } {
  const shown = [process.stdout, process.stderr].find((stream) => stream.isTTY);
  return { cols: shown?.columns || 80, rows: shown?.rows || 24 };
}
