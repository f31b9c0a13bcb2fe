import { fetchFile } from "./file.js";
import { fetchHttp } from "./http/fetch.js";
import type { Scheme } from "./scheme.js";

/** Every kind of address that can be fetched, by the protocol of the URL class. */
export const SCHEMES: ReadonlyMap<string, Scheme> = new Map([
  ["http:", fetchHttp],
  ["https:", fetchHttp],
  ["file:", fetchFile],
]);
