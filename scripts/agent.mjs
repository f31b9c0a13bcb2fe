// The guest agent: static binaries in dist/guest-agent/<arch>/, for this host's architecture and for every other one whose
// cross compiler is here. Up-to-date ones are left alone.
import { spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { root } from "./steps.mjs";

const SOURCES = join(root, "guest-agent");
const ARCHES = { x86_64: "x64", aarch64: "arm64" };

const WARNINGS = [
  "-Wall",
  "-Wextra",
  "-Werror",
  "-Wshadow",
  "-Wstrict-prototypes",
  "-Wpointer-arith",
  "-Wwrite-strings",
  "-Wvla",
];
const COMMON = ["-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", ...WARNINGS];
const RELEASE = ["-static", "-Os", "-fno-plt", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-s"];
const SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/** Builds what can be built here. Throws where this host's own can't be; a missing cross compiler only means one binary less. */
export function buildAgent() {
  if (process.platform !== "linux") {
    console.error("guest agent: built on Linux only; skipped");
    return;
  }
  for (const [arch, nodeArch] of Object.entries(ARCHES)) {
    const native = process.arch === nodeArch;
    const compiler = native ? "gcc" : `${arch}-linux-gnu-gcc`;
    const missing = lacks(compiler);
    if (missing === null) compile(compiler, RELEASE, join(root, "dist", "guest-agent", arch, "smolvm-agent"));
    else if (native)
      throw new Error(`The guest agent can't be built: ${missing}. On Debian: sudo apt-get install gcc libc6-dev`);
    else console.error(`guest agent: none for ${arch} (${missing})`);
  }
}

/** A build for this host with sanitizers, for tests. Gives its path. */
export function buildSanitizedAgent() {
  const target = join(root, "build", "guest-agent", "sanitized", "smolvm-agent");
  compile("gcc", SANITIZED, target);
  return target;
}

/** What keeps this compiler from making a static program, or null. */
function lacks(compiler) {
  const found = spawnSync(compiler, ["-print-file-name=libc.a"], { encoding: "utf8" });
  if (found.error) return `no ${compiler}`;
  return found.stdout.trim().includes("/") ? null : `${compiler} has no static C library`;
}

function compile(compiler, flags, target) {
  const sources = readdirSync(SOURCES)
    .filter((name) => name.endsWith(".c"))
    .sort();
  const version = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version;
  const line = [...COMMON, ...flags, `-DAGENT_VERSION="${version}"`, ...sources];
  const stamp = join(root, "build", "guest-agent", `${basename(dirname(target))}.command`);
  if (isUpToDate(target, stamp, line)) return;
  mkdirSync(dirname(target), { recursive: true });
  mkdirSync(dirname(stamp), { recursive: true });
  // Beside the target and renamed at the end: a test may be running the old one.
  const temporary = mkdtempSync(`${target}.`);
  try {
    const output = join(temporary, "smolvm-agent");
    const result = spawnSync(compiler, [...line, "-o", output], {
      cwd: SOURCES,
      stdio: ["ignore", "inherit", "inherit"],
    });
    if (result.error) throw result.error;
    if (result.status !== 0) throw new Error(`${compiler} ended with exit status ${result.status}`);
    renameSync(output, target);
    writeFileSync(stamp, line.join("\n"));
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function isUpToDate(target, stamp, line) {
  try {
    const built = statSync(target).mtimeMs;
    const inputs = [...readdirSync(SOURCES).map((name) => join(SOURCES, name)), fileURLToPath(import.meta.url)];
    return readFileSync(stamp, "utf8") === line.join("\n") && inputs.every((path) => statSync(path).mtimeMs <= built);
  } catch {
    return false; // not there yet
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildAgent();
