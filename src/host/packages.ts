import { readdirSync, readFileSync } from "node:fs";

import { findTool } from "./find.js";

export type PackageManagerName = "apt" | "dnf" | "pacman" | "apk" | "zypper" | "brew";

/** A system's package manager: how it is called, and under which names it has the programs that smolvm uses. */
export interface PackageManager {
  readonly name: PackageManagerName;
  readonly program: string;
  /** What `ID` or `ID_LIKE` in /etc/os-release says where this is the system's own package manager. */
  readonly systems: readonly string[];
  /** Fetches the lists of packages. */
  readonly refresh: readonly string[] | null;
  /** Refreshing is left out when this folder holds lists already. Absent: it is always done. */
  readonly lists?: string;
  readonly install: readonly string[];
  readonly needsRoot: boolean;
  /** Program → package. */
  readonly packages: Readonly<Record<string, string>>;
}

/* The names are those of each distribution's package index. */
export const PACKAGE_MANAGERS: readonly PackageManager[] = [
  {
    name: "apt",
    program: "apt-get",
    systems: ["debian", "ubuntu"],
    refresh: ["apt-get", "update"],
    install: ["apt-get", "install", "-y", "--no-install-recommends"],
    needsRoot: true,
    packages: {
      "qemu-system-x86_64": "qemu-system-x86",
      "qemu-system-aarch64": "qemu-system-arm",
      "qemu-img": "qemu-utils",
      setpriv: "util-linux",
      prlimit: "util-linux",
      xz: "xz-utils",
      zstd: "zstd",
      "dpkg-deb": "dpkg",
    },
  },
  {
    name: "dnf",
    program: "dnf",
    systems: ["fedora", "rhel", "centos"],
    refresh: null,
    install: ["dnf", "install", "-y"],
    needsRoot: true,
    packages: {
      "qemu-system-x86_64": "qemu-system-x86-core",
      "qemu-system-aarch64": "qemu-system-aarch64-core",
      "qemu-img": "qemu-img",
      setpriv: "util-linux",
      prlimit: "util-linux",
      xz: "xz",
      zstd: "zstd",
    },
  },
  {
    name: "pacman",
    program: "pacman",
    systems: ["arch"],
    // Only where there are no lists at all: fresh lists beside old packages are a state that Arch does not support.
    refresh: ["pacman", "-Sy", "--noconfirm"],
    lists: "/var/lib/pacman/sync",
    install: ["pacman", "-S", "--noconfirm", "--needed"],
    needsRoot: true,
    packages: {
      "qemu-system-x86_64": "qemu-system-x86",
      "qemu-system-aarch64": "qemu-system-aarch64",
      "qemu-img": "qemu-img",
      setpriv: "util-linux",
      prlimit: "util-linux",
      xz: "xz",
      zstd: "zstd",
    },
  },
  {
    name: "apk",
    program: "apk",
    systems: ["alpine"],
    refresh: null,
    install: ["apk", "add", "--update-cache"],
    needsRoot: true,
    packages: {
      "qemu-system-x86_64": "qemu-system-x86_64",
      "qemu-system-aarch64": "qemu-system-aarch64",
      "qemu-img": "qemu-img",
      setpriv: "setpriv",
      prlimit: "util-linux-misc",
      xz: "xz",
      zstd: "zstd",
    },
  },
  {
    name: "zypper",
    program: "zypper",
    systems: ["suse", "opensuse"],
    refresh: null,
    install: ["zypper", "--non-interactive", "install"],
    needsRoot: true,
    packages: {
      "qemu-system-x86_64": "qemu-x86",
      "qemu-system-aarch64": "qemu-arm",
      "qemu-img": "qemu-img",
      setpriv: "util-linux",
      prlimit: "util-linux",
      xz: "xz",
      zstd: "zstd",
    },
  },
  {
    name: "brew",
    program: "brew",
    systems: ["darwin"],
    refresh: null,
    install: ["brew", "install"],
    needsRoot: false,
    packages: {
      "qemu-system-x86_64": "qemu",
      "qemu-system-aarch64": "qemu",
      "qemu-img": "qemu",
      xz: "xz",
      zstd: "zstd",
    },
  },
];

/**
 * The package manager of this system, or null if it is none of those that are known. Another one may be installed beside the
 * system's own, so what the system calls itself goes first.
 */
export function packageManager(): PackageManager | null {
  const present = PACKAGE_MANAGERS.filter((manager) => findTool(manager.program) !== null);
  const system = systemNames();
  return present.find((manager) => manager.systems.some((name) => system.includes(name))) ?? present[0] ?? null;
}

/** `ID` and `ID_LIKE` of https://www.freedesktop.org/software/systemd/man/os-release.html, or "darwin". */
function systemNames(): readonly string[] {
  if (process.platform === "darwin") return ["darwin"];
  try {
    const names = readFileSync("/etc/os-release", "utf8").matchAll(/^ID(?:_LIKE)?=["']?([^"'\n]*)/gm);
    return [...names].flatMap((match) => (match[1] ?? "").split(" "));
  } catch {
    return []; // a system that does not say what it is
  }
}

/** The commands that install programs here, ready to run in order; empty if there is nothing to install. */
export function installCommands(manager: PackageManager, tools: readonly string[]): readonly (readonly string[])[] {
  const packages = packagesOf(manager, tools);
  if (packages.length === 0) return [];
  const prefix = manager.needsRoot && process.getuid?.() !== 0 ? ["sudo"] : [];
  const refresh = manager.refresh !== null && !hasLists(manager) ? [[...prefix, ...manager.refresh]] : [];
  return [...refresh, [...prefix, ...manager.install, ...packages]];
}

/** Each package once, in the order of the tools. A tool that the manager has no package for is left out. */
function packagesOf(manager: PackageManager, tools: readonly string[]): readonly string[] {
  return [...new Set(tools.flatMap((tool) => manager.packages[tool] ?? []))];
}

function hasLists({ lists }: PackageManager): boolean {
  if (lists === undefined) return false;
  try {
    return readdirSync(lists).length > 0;
  } catch {
    return false; // never fetched
  }
}

/** What a person types to get a program here. */
export function installHint(tool: string): string {
  const manager = packageManager();
  const command = manager === null ? undefined : installCommands(manager, [tool]).at(-1);
  if (command === undefined) return `Install the package that has '${tool}', then try again.`;
  return `Run: smolvm setup   (or by hand: ${command.join(" ")})`;
}
