import { type Extent, FAST_TARGET, FILE_TYPES, type FileType, MAX_LINKS, MAX_TARGET } from "./format.js";
import { bytes, invalid, type Name, show, split } from "./path.js";
import { type EncodedXattrs, encodeXattrs, NO_XATTRS } from "./xattr.js";

/** What every kind of file has. */
export interface Attributes {
  /** Permission bits with setuid, setgid and sticky, such as 0o755. */
  readonly mode: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds since 1970; default 0. Access, change and creation time are set to the same. */
  readonly mtime?: number;
  /** Nanoseconds within the second, 0 to 999 999 999. */
  readonly mtimeNs?: number;
  /** Extended attributes by full name, such as "security.capability". */
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
}

export interface Device {
  readonly major: number;
  readonly minor: number;
}

export interface Inode {
  number: number;
  readonly type: FileType;
  attributes: Attributes;
  xattrs: EncodedXattrs;
  /** Names that lead here; a directory counts only its own name. */
  links: number;
  size: number;
  extents: readonly Extent[];
  /** Of the content, so that it takes part in the file system's identity. */
  crc: number;
  readonly target: Buffer;
  readonly device: Device | null;
  /** By name as a latin1 string of the name's bytes, so that each byte sequence is one key. Empty but for directories. */
  readonly children: Map<string, Inode>;
  parent: Inode | null;
  /** Made only because something was put into it: may still be named itself. */
  implied: boolean;
}

/** The directory tree while it grows: names checked, nothing encoded yet. */
export class Tree {
  readonly root: Inode;
  readonly lostAndFound: Inode;

  constructor() {
    this.root = newInode("directory", { mode: 0o755 });
    this.root.implied = true;
    this.root.links = 1;
    this.root.parent = this.root;
    this.lostAndFound = newInode("directory", { mode: 0o700 });
    this.#attach(this.root, "lost+found", this.lostAndFound);
    this.lostAndFound.implied = true;
  }

  /** Adds a new inode. Missing parents are made, owned by root with mode 0755. */
  add(path: Name, type: FileType, attributes: Attributes, extra: { target?: Name; device?: Device } = {}): Inode {
    checkAttributes(path, attributes);
    const xattrs = encodeXattrs(path, attributes.xattrs);
    const names = split(path);
    if (type === "directory") {
      const existing = this.#find(names);
      if (existing?.type === "directory" && existing.implied) {
        existing.attributes = attributes;
        existing.xattrs = xattrs;
        existing.implied = false;
        return existing;
      }
    }
    const { parent, name } = this.#place(path, names);
    const inode = newInode(
      type,
      attributes,
      extra.target === undefined ? undefined : bytes(extra.target),
      extra.device,
    );
    inode.xattrs = xattrs;
    if (type === "symlink") checkTarget(path, inode);
    if (type === "character" || type === "block") checkDevice(path, inode.device);
    this.#attach(parent, name, inode);
    return inode;
  }

  /** A further name for a file that is there already. */
  link(path: Name, existing: Name): void {
    const inode = this.#find(split(existing));
    if (inode === undefined) throw invalid(path, `is a hard link to '${show(existing)}', which is not there`);
    if (inode.type === "directory") throw invalid(path, `is a hard link to '${show(existing)}', which is a directory`);
    if (inode.links >= MAX_LINKS) throw invalid(path, `is one hard link too many: a file can have ${MAX_LINKS}`);
    const { parent, name } = this.#place(path, split(path));
    this.#attach(parent, name, inode);
  }

  /** Removes a name, and all below it. Gives the inodes that have no name any more; none if the path isn't there. */
  remove(path: Name): Inode[] {
    const names = split(path);
    const last = names.at(-1);
    const inode = this.#find(names);
    if (inode === undefined) return [];
    if (last === undefined || inode === this.lostAndFound) throw invalid(path, "can't be removed");
    this.#find(names.slice(0, -1))?.children.delete(last);
    const gone: Inode[] = [];
    const drop = (one: Inode): void => {
      one.links -= 1;
      if (one.links > 0) return;
      gone.push(one);
      for (const child of one.children.values()) drop(child);
    };
    drop(inode);
    return gone;
  }

  find(path: Name): Inode | undefined {
    return this.#find(split(path));
  }

  /** Each inode once, parents before children, in the order in which they were added to their folder. */
  *inodes(): Generator<Inode> {
    const seen = new Set<Inode>();
    const waiting = [this.root];
    for (let inode = waiting.pop(); inode !== undefined; inode = waiting.pop()) {
      if (seen.has(inode)) continue;
      seen.add(inode);
      yield inode;
      waiting.push(...[...inode.children.values()].reverse());
    }
  }

  #find(names: readonly string[]): Inode | undefined {
    let inode: Inode | undefined = this.root;
    for (const name of names) inode = inode?.children.get(name);
    return inode;
  }

  #place(path: Name, names: readonly string[]): { parent: Inode; name: string } {
    const name = names.at(-1);
    if (name === undefined) throw invalid(path, "is there already");
    let parent = this.root;
    for (const step of names.slice(0, -1)) {
      let next = parent.children.get(step);
      if (next === undefined) {
        next = newInode("directory", { mode: 0o755 });
        next.implied = true;
        this.#attach(parent, step, next);
      }
      if (next.type !== "directory")
        throw invalid(path, `is below '${show(Buffer.from(step, "latin1"))}', which is no directory`);
      parent = next;
    }
    if (parent.children.has(name)) throw invalid(path, "is there already");
    return { parent, name };
  }

  #attach(parent: Inode, name: string, inode: Inode): void {
    parent.children.set(name, inode);
    inode.links += 1;
    if (inode.type === "directory") inode.parent = parent;
  }
}

function newInode(type: FileType, attributes: Attributes, target?: Buffer, device?: Device): Inode {
  return {
    number: 0,
    type,
    attributes,
    xattrs: NO_XATTRS,
    links: 0,
    size: target?.length ?? 0,
    extents: [],
    crc: 0,
    target: target ?? Buffer.alloc(0),
    device: device ?? null,
    children: new Map(),
    parent: null,
    implied: false,
  };
}

function checkAttributes(path: Name, { mode, uid = 0, gid = 0, mtime = 0, mtimeNs = 0 }: Attributes): void {
  whole(path, "mode", mode, 0, 0o7777);
  whole(path, "uid", uid, 0, 0xffffffff);
  whole(path, "gid", gid, 0, 0xffffffff);
  // 34 bits, the lowest value being that of a signed 32-bit number.
  whole(path, "mtime", mtime, -(2 ** 31), 2 ** 34 - 2 ** 31 - 1);
  whole(path, "mtimeNs", mtimeNs, 0, 999_999_999);
}

function checkTarget(path: Name, { target }: Inode): void {
  if (target.length === 0) throw invalid(path, "is a symbolic link to nothing");
  if (target.length > MAX_TARGET)
    throw invalid(path, `is a symbolic link of ${target.length} bytes; the most is ${MAX_TARGET}`);
  if (target.includes(0)) throw invalid(path, "is a symbolic link with a NUL byte in its target");
}

function checkDevice(path: Name, device: Device | null): void {
  if (device === null) throw invalid(path, "is a device without numbers");
  whole(path, "major", device.major, 0, 0xfff);
  whole(path, "minor", device.minor, 0, 0xfffff);
}

function whole(path: Name, field: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw invalid(path, `has the ${field} ${value}; it must be a whole number from ${least} to ${most}`);
  }
}

/** True if the link's target is kept in the inode. */
export function isFastLink(inode: Inode): boolean {
  return inode.type === "symlink" && inode.target.length < FAST_TARGET;
}

export function modeBits(inode: Inode): number {
  return FILE_TYPES[inode.type].bits | inode.attributes.mode;
}
