export { agentPath, type GuestArch } from "./agent-path.js";
export { connectGuest } from "./connection.js";
export { SMALL_FILE } from "./files.js";
export type * from "./types.js";
