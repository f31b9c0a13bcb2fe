import { accessSync, constants } from "node:fs";

/** A system's package manager: how it is called, and under which names it has the programs that smolvm uses. */
export interface PackageManager {
  readonly name: "apt" | "dnf" | "pacman" | "apk" | "zypper" | "brew";
  /** The program whose presence tells that this is the system's package manager. */
  readonly program: string;
  /** Refreshes the list of packages, where an install needs that first. */
  readonly refresh: readonly string[] | null;
  readonly install: readonly string[];
  readonly needsRoot: boolean;
  readonly packages: Readonly<Record<string, string>>;
}

/* The names were read from each distribution's package index; a program that is not listed is in its base system. */
const MANAGERS: readonly PackageManager[] = [
  {
    name: "apt",
    program: "/usr/bin/apt-get",
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
    program: "/usr/bin/dnf",
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
    program: "/usr/bin/pacman",
    refresh: null,
    install: ["pacman", "-Sy", "--noconfirm", "--needed"],
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
    program: "/sbin/apk",
    refresh: null,
    install: ["apk", "add"],
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
    program: "/usr/bin/zypper",
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
    program: "/opt/homebrew/bin/brew",
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

/** The package manager of this system, or null if it is none of those that are known. */
export function packageManager(): PackageManager | null {
  return MANAGERS.find((manager) => isExecutable(manager.program)) ?? null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** What a person types to get a program here. */
export function installHint(tool: string): string {
  const manager = packageManager();
  const name = manager?.packages[tool];
  if (manager === null || name === undefined) return `Install the package that has '${tool}', then try again.`;
  const command = [...(manager.needsRoot ? ["sudo"] : []), ...manager.install, name].join(" ");
  return `Run: smolvm setup   (or by hand: ${command})`;
}
