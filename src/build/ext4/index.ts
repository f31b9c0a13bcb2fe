export type { Attributes } from "./tree.js";
export { Ext4Writer, type Ext4Options, type Ext4Result } from "./writer.js";
