import { ValidationError } from "../errors.js";

/** Longest image name, in characters. It becomes a folder's name, so its UTF-8 form is bounded as well. */
const MAX_CHARACTERS = 128;
const MAX_BYTES = 200;

/** Throws unless `name` can be the name of an image: it becomes one folder of the cache and must not be able to leave it. */
export function assertImageName(name: unknown): asserts name is string {
  if (typeof name !== "string") throw new ValidationError(`image name must be a string, not ${kindOf(name)}`);
  if (name.trim() === "") throw new ValidationError("image name cannot be empty");
  const objection = objectionTo(name);
  if (objection !== null) {
    throw new ValidationError(`image name ${JSON.stringify(name.slice(0, 2 * MAX_CHARACTERS))} ${objection}`, {
      details: { field: "name", value: name },
    });
  }
}

export function isImageName(name: string): boolean {
  return name.trim() !== "" && objectionTo(name) === null;
}

function objectionTo(name: string): string | null {
  if (name.length > MAX_CHARACTERS) return `is longer than ${MAX_CHARACTERS} characters`;
  if (Buffer.byteLength(name) > MAX_BYTES) return `is longer than ${MAX_BYTES} bytes in UTF-8`;
  if (/[/\\]/.test(name)) return "must not contain a slash: it names an image, not a path";
  if (name === "lost+found") return "is the folder that file systems keep for themselves";
  if (name.startsWith(".")) return "must not begin with a dot";
  if (name.trim() !== name) return "must not begin or end with white space";
  // Control and format characters, lone surrogates and unassigned code points: invisible, or not the same for every file system.
  if (/\p{C}/u.test(name)) return "must not contain control characters";
  return null;
}

function kindOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
}
