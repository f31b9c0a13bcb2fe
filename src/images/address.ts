/** An address as it may be shown and written down: without a user name and a password. */
export function withoutCredentials(url: string): string {
  if (!url.includes("@") || !URL.canParse(url)) return url;
  const shown = new URL(url);
  if (shown.username === "" && shown.password === "") return url;
  shown.username = "";
  shown.password = "";
  return shown.href;
}
