/** Letters to insert, remove, replace or swap with their neighbour to make one word of the other. */
function distance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1];
      let best = Math.min(at(last, column) + 1, at(current, column - 1) + 1, at(last, column - 1) + (same ? 0 : 1));
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
        best = Math.min(best, at(beforeLast, column - 2) + 1);
      }
      current.push(best);
    }
    beforeLast = last;
    last = current;
  }
  return at(last, b.length);
}

const at = (row: readonly number[], column: number): number => row[column] ?? Number.POSITIVE_INFINITY;

/** The known word that was most likely meant, or null: a third of the letters may be wrong, but not all of a short word. */
export function nearest(word: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let smallest = Math.min(3, Math.max(1, Math.floor(word.length / 3))) + 1;
  for (const candidate of known) {
    const steps = candidate.startsWith(word) && word.length >= 3 ? 1 : distance(word, candidate);
    if (steps < smallest && steps < candidate.length) {
      smallest = steps;
      best = candidate;
    }
  }
  return best;
}

export function didYouMean(word: string, known: readonly string[]): string | null {
  const found = nearest(word, known);
  return found === null ? null : `Did you mean '${found}'?`;
}

/** What other tools call it, or call something close to it. */
const SYNONYMS: Readonly<Record<string, string>> = {
  list: "ls",
  ps: "ls",
  delete: "rm",
  remove: "rm",
  destroy: "rm",
  kill: "stop",
  ssh: "shell",
  attach: "shell",
  console: "logs",
  copy: "cp",
  info: "inspect",
  images: "image ls",
  pull: "image pull",
  rmi: "image rm",
  prune: "image prune",
  save: "image export",
  load: "image import",
  "image list": "image ls",
  "image delete": "image rm",
  "image remove": "image rm",
  "image download": "image pull",
  "image info": "image inspect",
  "image save": "image export",
  "image load": "image import",
};

/** The command that was meant by the words; of a group's commands only the last word is held against the others. */
export function commandMeant(name: string, known: readonly string[]): string | null {
  const synonym = Object.hasOwn(SYNONYMS, name) ? SYNONYMS[name] : undefined;
  const group = name.includes(" ") ? name.slice(0, name.lastIndexOf(" ") + 1) : "";
  const words = known.filter((other) => other.startsWith(group)).map((other) => other.slice(group.length));
  const found =
    synonym ??
    nearest(
      name.slice(group.length),
      words.filter((word) => !word.includes(" ")),
    );
  if (found === null) return null;
  return `Did you mean 'smolvm ${synonym === undefined ? group : ""}${found}'?`;
}
