/**
 * Whether a name is that of an image which is made on this host where it is not here: "default", or "default-arm64" and
 * "default-x86_64" for one architecture or the other. A registry that has the name goes first. `arch` is undefined for the host's own.
 */
export function madeHere(
  name: string,
  registry?: { listAvailable(): readonly string[] },
): { readonly arch: string | undefined } | null {
  const match = /^default(?:-(arm64|x86_64))?$/.exec(name);
  return match === null || registry?.listAvailable().includes(name) === true ? null : { arch: match[1] };
}
