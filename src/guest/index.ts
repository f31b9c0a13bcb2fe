export { agentPath, type GuestArch } from "./agent-path.js";
export { connectGuest } from "./connection.js";
export type * from "./types.js";
