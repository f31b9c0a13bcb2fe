import { ImageSource } from "./source.js";

/** The Firecracker project's quick-start files. No digests are published for them. */
const QUICKSTART = "https://s3.amazonaws.com/spec.ccfc.min/img";

/** The images that are known by name without a registry of one's own. */
export const BUILTIN_IMAGES: Readonly<Record<"hello" | "quickstart-x86_64", ImageSource>> = Object.freeze({
  hello: new ImageSource({
    name: "hello",
    kernelUrl: `${QUICKSTART}/hello/kernel/hello-vmlinux.bin`,
    rootfsUrl: `${QUICKSTART}/hello/fsfiles/hello-rootfs.ext4`,
  }),
  "quickstart-x86_64": new ImageSource({
    name: "quickstart-x86_64",
    kernelUrl: `${QUICKSTART}/quickstart_guide/x86_64/kernels/vmlinux.bin`,
    rootfsUrl: `${QUICKSTART}/quickstart_guide/x86_64/rootfs/bionic.rootfs.ext4`,
  }),
});
