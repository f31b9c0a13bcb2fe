import type { Duplex } from "node:stream";

import type { ConnectOptions, GuestConnection } from "./types.js";

export declare function connectGuest(stream: Duplex, options?: ConnectOptions): Promise<GuestConnection>;
