import { mkdir, readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { HostError, ImageError } from "../errors.js";
import { findTool, runTool, type ToolResult } from "../host/tools.js";
import { hostArch } from "./host-arch.js";
import type { Arch } from "./kernel.js";

/** A package as it was downloaded and verified by apt. */
export interface DownloadedPackage {
  readonly name: string;
  readonly version: string;
  /** The .deb file. */
  readonly path: string;
}

/** Debian's names of architectures. */
const DEBIAN_ARCH: Readonly<Record<Arch, string>> = { x86_64: "amd64", arm64: "arm64" };

const SYSTEM_LISTS = "/var/lib/apt/lists";
/** Older lists may name packages that the archive has replaced since, so lists of our own are fetched. */
const FRESH_MS = 7 * 24 * 60 * 60 * 1000;

export interface AptOptions {
  readonly arch: Arch;
  /** An empty folder for lists and downloads; the caller removes it. */
  readonly folder: string;
  /** Lists to use as they are, and to renew only if they turn out to be behind. Default: the system's, where they are fresh. */
  readonly systemLists?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onStep?: ((step: string) => void) | undefined;
}

/**
 * The host's own package archive, as its administrator has configured it: its sources, its keys, its proxy. Packages are downloaded
 * and verified by apt, and nothing is installed; all that is written stays in one folder. Works without root.
 *
 * Errors: HostError HOST_UNSUPPORTED where there is no apt; ImageError IMAGE_BUILD_FAILED where a package can't be had.
 */
export class Apt {
  readonly #options: AptOptions;
  readonly #config: string;
  /** Lists that are not our own; null once there are lists of our own. */
  #foreignLists: string | null;
  /** What apt could not fetch of the lists, in its words; it calls an update successful all the same. */
  #unreachable: readonly string[] = [];

  private constructor(options: AptOptions, config: string, foreignLists: string | null) {
    this.#options = options;
    this.#config = config;
    this.#foreignLists = foreignLists;
  }

  static async open(options: AptOptions): Promise<Apt> {
    requireApt();
    const { folder } = options;
    for (const name of ["lists/partial", "cache/archives/partial", "packages"])
      await mkdir(join(folder, name), { recursive: true });
    // An empty record of installed packages: what the host has installed must not decide what is chosen.
    await writeFile(join(folder, "status"), "");
    const config = join(folder, "apt.conf");
    // Hooks of the host's administrator are for the host's own lists.
    await writeFile(
      config,
      "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
    );
    const apt = new Apt(options, config, options.systemLists ?? (await freshSystemLists(options.arch)));
    if (apt.#foreignLists === null) await apt.#update();
    return apt;
  }

  /** The first of these names that the archive has, or an error that names them all. */
  async first(names: readonly string[]): Promise<string> {
    for (const fresh of [false, true]) {
      for (const name of names) if ((await this.#show(name)) !== null) return name;
      if (fresh || this.#foreignLists === null) break;
      await this.#update();
    }
    throw this.#lacking(names);
  }

  /** The package's own dependencies, by name; of alternatives the first. */
  async dependencies(name: string): Promise<string[]> {
    const record = await this.#show(name);
    if (record === null) throw this.#lacking([name]);
    const fields = record.replaceAll(/\n[ \t]+/g, " ").split("\n");
    return fields
      .filter((line) => /^(Pre-)?Depends:/i.test(line))
      .flatMap((line) => line.slice(line.indexOf(":") + 1).split(","))
      .map((dependency) => /^[a-z0-9][a-z0-9.+-]*/.exec(dependency.trim())?.[0] ?? "")
      .filter(Boolean);
  }

  /** Downloads packages of these names. */
  async download(names: readonly string[]): Promise<DownloadedPackage[]> {
    const folder = join(this.#options.folder, "packages");
    this.#options.onStep?.(`downloading ${names.join(", ")}`);
    try {
      await this.#run("apt-get", ["download", "-y", ...names], folder);
    } catch (error) {
      if (this.#foreignLists === null)
        throw this.#failed(`Packages could not be downloaded: ${names.join(", ")}`, error);
      // The system's lists may be behind the archive.
      await this.#update();
      return await this.download(names);
    }
    const files = (await readdir(folder)).filter((file) => file.endsWith(".deb")).map((file) => join(folder, file));
    const packages = await Promise.all(files.map(async (path) => await identify(path, this.#options.signal)));
    const missing = names.filter((name) => !packages.some((each) => each.name === name));
    if (missing.length > 0) throw this.#failed(`apt did not download ${missing.join(", ")}`);
    return packages;
  }

  async #show(name: string): Promise<string | null> {
    try {
      const { stdout } = await this.#run("apt-cache", ["show", "--no-all-versions", name]);
      return stdout.trim() === "" ? null : stdout;
    } catch (error) {
      this.#options.signal?.throwIfAborted();
      if (error instanceof HostError && /No packages found|Unable to locate/.test(complaints(error))) return null;
      throw this.#failed("The package archive's lists can't be read", error);
    }
  }

  async #update(): Promise<void> {
    this.#foreignLists = null;
    this.#options.onStep?.("reading the package archive's lists");
    try {
      const { stderr } = await this.#run("apt-get", ["update"]);
      this.#unreachable = stderr.split("\n").filter((line) => line.startsWith("W: Failed to fetch"));
    } catch (error) {
      throw this.#failed("The package archive's lists could not be read", error);
    }
  }

  async #run(
    program: "apt-get" | "apt-cache",
    args: readonly string[],
    cwd = this.#options.folder,
  ): Promise<ToolResult> {
    const { folder, arch, signal } = this.#options;
    const settings = {
      "Dir::State": join(folder, "state"),
      "Dir::State::lists": this.#foreignLists ?? join(folder, "lists"),
      "Dir::State::status": join(folder, "status"),
      "Dir::Cache": join(folder, "cache"),
      // Container images switch this off; here it saves each call from parsing the lists again.
      "Dir::Cache::pkgcache": "pkgcache.bin",
      "Dir::Cache::srcpkgcache": "",
      "APT::Architecture": DEBIAN_ARCH[arch],
      "APT::Architectures": DEBIAN_ARCH[arch],
      "APT::Get::AllowUnauthenticated": "false",
      "Acquire::AllowInsecureRepositories": "false",
      "Acquire::Languages": "none",
      "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
      "Acquire::Retries": "2",
      // Started as root, apt would download as a user that may not enter this folder, and warn about it.
      ...(process.getuid?.() === 0 ? { "APT::Sandbox::User": "root" } : {}),
    };
    const options = Object.entries(settings).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
    return await runTool(program, ["-c", this.#config, "-q", ...options, ...args], {
      cwd,
      env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" },
      signal,
    });
  }

  #lacking(names: readonly string[]): unknown {
    const [unreachable] = this.#unreachable;
    if (unreachable !== undefined)
      return this.#failed(`The package archive can't be reached: ${unreachable.slice(3).trim()}`);
    return this.#failed(`The host's package archive has no package ${names.map((name) => `'${name}'`).join(" or ")}`);
  }

  #failed(message: string, cause?: unknown): unknown {
    if (this.#options.signal?.aborted === true) return this.#options.signal.reason;
    if (cause instanceof HostError && cause.code === "HOST_TOOL_MISSING") return cause;
    const said = cause instanceof HostError ? lastComplaint(cause) : "";
    return new ImageError("IMAGE_BUILD_FAILED", `${message}${said === "" ? "" : `: ${said}`}.`, {
      hint:
        "Check the network and the archive with: sudo apt-get update. Or take the image from a machine that has it: " +
        "smolvm image export there, smolvm image import here.",
      cause,
    });
  }
}

function requireApt(): void {
  for (const tool of ["apt-get", "apt-cache", "dpkg-deb"]) {
    if (findTool(tool) !== null) continue;
    throw new HostError("HOST_UNSUPPORTED", `An image can't be made here: this host has no '${tool}'.`, {
      hint:
        "Use an image from elsewhere: smolvm image pull NAME, or on a Debian or Ubuntu machine: smolvm image export default, " +
        "and here: smolvm image import FILE.",
      details: { tool },
    });
  }
}

/** Each update touches the folder of partial lists, whether or not anything was new. */
async function freshSystemLists(arch: Arch): Promise<string | null> {
  if (arch !== hostArch()) return null;
  try {
    const names = await readdir(SYSTEM_LISTS);
    if (!names.some((name) => name.includes("_Packages"))) return null;
    const times = await Promise.all(
      [SYSTEM_LISTS, join(SYSTEM_LISTS, "partial")].map(async (path) => (await stat(path)).mtimeMs),
    );
    return Date.now() - Math.max(...times) < FRESH_MS ? SYSTEM_LISTS : null;
  } catch {
    return null; // no lists, or not for us to read
  }
}

async function identify(path: string, signal: AbortSignal | undefined): Promise<DownloadedPackage> {
  const { stdout } = await runTool("dpkg-deb", ["-W", "--showformat=${Package}\\n${Version}\\n", path], { signal });
  const [name = "", version = ""] = stdout.split("\n");
  return { name, version, path };
}

function complaints(error: HostError): string {
  return (error.details["stderr"] as string | undefined) ?? "";
}

/** The last lines that apt marks as errors, without the mark. */
function lastComplaint(error: HostError): string {
  const lines = complaints(error).split("\n");
  const errors = lines.filter((line) => /^(E|Err):? ?/.test(line)).map((line) => line.replace(/^E: /, ""));
  return (errors.length > 0 ? errors : lines)
    .slice(-2)
    .join(" ")
    .replace(/[.\s]+$/, "");
}
