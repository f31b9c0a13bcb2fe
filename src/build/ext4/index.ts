export type { Ext4Sink } from "./format.js";
export type { Attributes, Device, Name } from "./tree.js";
export { Ext4Writer, type Ext4Options, type Ext4Result } from "./writer.js";
