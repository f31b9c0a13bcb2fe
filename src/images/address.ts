/** An address as it may be shown and written down: without a user name and a password. */
export function withoutCredentials(url: string): string {
  if (!url.includes("@")) return url;
  // A password with a "#" or a blank in it makes of an address one that can't be read, and is one all the same.
  if (!URL.canParse(url)) return url.replace(/^([a-z]+:\/\/).*@/is, "$1");
  const shown = new URL(url);
  if (shown.username === "" && shown.password === "") return url;
  shown.username = "";
  shown.password = "";
  return shown.href;
}
