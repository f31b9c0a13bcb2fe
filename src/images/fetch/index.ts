export { mirrorsOf } from "./mirrors.js";
export type { Extent, TransferProgress, TransferRequest, TransferResult } from "./request.js";
export { discardPartial, transfer } from "./transfer.js";
