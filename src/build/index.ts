export { type CpioEntry, writeCpio } from "./cpio.js";
export { defaultImage, type DefaultImageOptions, defaultKernel } from "./default-image.js";
