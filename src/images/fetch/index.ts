export { fetchSmall } from "./http/small.js";
export { peekPartial } from "./journal.js";
export { mirrorsOf } from "./mirrors.js";
export { discardPartial, transfer } from "./transfer.js";
