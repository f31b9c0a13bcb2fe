/**
 * The addresses that may be asked instead of `url`, best first, without `url` itself: what `SMOLVM_MIRROR` says, then the
 * base addresses given, such as a registry's own.
 *
 * The variable holds one or several base addresses, separated by spaces or commas. A base takes the place of the URL's
 * origin and keeps its path: with `https://mirror.example/images`, `https://origin.example/a/b.img` is asked for at
 * `https://mirror.example/images/a/b.img`. `{host}` in a base becomes the origin's host, for a mirror of several origins.
 *
 * With a pinned digest a mirror can do no harm. Without one its bytes are taken as the address's own would be, as naming it
 * says that it is relied on; but once bytes are remembered for an address, a mirror that has others is passed over, and the
 * address itself decides whether they have changed.
 */
export function mirrorsOf(url: string, given: readonly string[] = []): string[] {
  const chosen = (process.env["SMOLVM_MIRROR"] ?? "").split(/[\s,]+/).filter((base) => base !== "");
  const bases = [...chosen, ...given];
  if (bases.length === 0 || !/^https?:/i.test(url)) return [];
  const { host, pathname, search } = new URL(url);
  return bases
    .map((base) => base.replaceAll("{host}", host).replace(/\/+$/, "") + pathname + search)
    .filter((mirror) => mirror !== url);
}
