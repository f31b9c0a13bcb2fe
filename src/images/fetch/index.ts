export { mirrorsOf } from "./mirrors.js";
export { peekPartial } from "./partial.js";
export { discardPartial, transfer } from "./transfer.js";
