export type { Ext4Sink } from "./format.js";
export type { Name } from "./path.js";
export type { Attributes, Device } from "./tree.js";
export { Ext4Writer, type Ext4Options, type Ext4Result } from "./writer.js";
