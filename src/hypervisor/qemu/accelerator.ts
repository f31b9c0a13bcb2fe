import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, mkdtemp, rm, writeFile } from "node:fs/promises";
import { arch as hostArch, platform, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { HostError } from "../../errors.js";
import type { GuestArch } from "../../guest/index.js";
import { isObject } from "../../json.js";
import type { Accelerator } from "../types.js";
import { bootKey, programKey, recallVerdict, rememberVerdict } from "../verdicts.js";

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** What was seen, in words. */
  readonly reason: string;
}

interface Verdict {
  readonly works: boolean;
  readonly seen: string;
}

/** A working accelerator needs about 50 ms, most of which is QEMU's own start. */
const PROBE_DEADLINE_MS = 700;
/** An emulated guest needs about 100 ms, and this host is too busy to judge by where it takes that long. */
const CONTROL_DEADLINE_MS = 3000;

/**
 * Chooses how a machine's instructions are run. Hardware is chosen only after a tiny guest has been seen to run on it:
 * a nested host's /dev/kvm can open and still hang every guest. The verdict is remembered for this boot, kernel and QEMU.
 *
 * @param options.anew tries it whatever is remembered.
 * @throws HostError HOST_ACCELERATOR when a particular one is asked for and does not work.
 */
export async function chooseAccelerator(
  wanted: "auto" | Accelerator,
  arch: GuestArch,
  binary: string,
  { anew = false }: { readonly anew?: boolean } = {},
): Promise<AcceleratorChoice> {
  if (wanted === "tcg") return { accelerator: "tcg", reason: "software emulation was asked for" };
  const native = nativeAccelerator();
  const verdict = await judge(wanted, native, arch, binary, anew);
  if (verdict.works && native !== null) return { accelerator: native, reason: verdict.seen };
  if (wanted === "auto") return { accelerator: "tcg", reason: verdict.seen };
  throw new HostError("HOST_ACCELERATOR", `The accelerator '${wanted}' can't be used: ${verdict.seen}.`, {
    hint: 'Use accel "auto" or "tcg" to run by software emulation; for the reason run: smolvm doctor',
    details: { accelerator: wanted, seen: verdict.seen },
  });
}

function nativeAccelerator(): "kvm" | "hvf" | null {
  if (platform() === "linux") return "kvm";
  return platform() === "darwin" ? "hvf" : null;
}

async function judge(
  wanted: "auto" | "kvm" | "hvf",
  native: "kvm" | "hvf" | null,
  arch: GuestArch,
  binary: string,
  anew: boolean,
): Promise<Verdict> {
  if (native === null) return { works: false, seen: `there is none on ${platform()}` };
  if (wanted !== "auto" && wanted !== native) return { works: false, seen: `this host's accelerator is ${native}` };
  if ((hostArch() === "x64" ? "x86_64" : "aarch64") !== arch) {
    return { works: false, seen: `the guest is ${arch} and this host is not` };
  }
  if (native === "kvm") {
    const refused = await kvmRefusal();
    if (refused !== null) return { works: false, seen: refused };
  }
  const name = `accelerator-${native}-${arch}`;
  const key = `${await bootKey()} ${await programKey(binary)}`;
  const known = anew ? undefined : await recallVerdict(name, key);
  if (isObject(known) && typeof known["works"] === "boolean" && typeof known["seen"] === "string") {
    return { works: known["works"], seen: known["seen"] };
  }
  const { verdict, certain } = await tryOut(native, arch, binary);
  if (certain) await rememberVerdict(name, key, verdict);
  return verdict;
}

/**
 * That it failed, or that nothing came within the time, says something of the accelerator only if this host is well otherwise:
 * while the guest still has time, an emulated one has to come from its start to its end. Else it is uncertain, and emulation is
 * for this time only.
 */
async function tryOut(
  accelerator: Accelerator,
  arch: GuestArch,
  binary: string,
): Promise<{ readonly verdict: Verdict; readonly certain: boolean }> {
  const enough = new AbortController();
  const trial = probeAccelerator(accelerator, arch, binary, enough.signal);
  const late = new AbortController();
  const inTime = await Promise.race([
    trial.finally(() => late.abort()),
    sleep(PROBE_DEADLINE_MS, null, { signal: late.signal }).catch(() => null), // no longer needed
  ]);
  if (inTime?.works) return { verdict: inTime, certain: true };
  try {
    const control = await probeAccelerator("tcg", arch, binary, AbortSignal.timeout(CONTROL_DEADLINE_MS));
    enough.abort();
    const verdict = await trial;
    if (verdict.works || control.works) return { verdict, certain: true };
    return {
      verdict: { works: false, seen: `${verdict.seen}; nor does an emulated one at the moment` },
      certain: false,
    };
  } finally {
    enough.abort();
  }
}

/** Not remembered: a permission can be given at any time, and looking costs nothing. */
async function kvmRefusal(): Promise<string | null> {
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
    return null;
  } catch (error) {
    const missing = isObject(error) && error["code"] === "ENOENT";
    return missing ? "there is no /dev/kvm" : "/dev/kvm is there, but this user may not open it";
  }
}

/** Runs a guest of a few instructions that enters protected mode (x86) or calls the firmware (arm64) and ends at once. */
export async function probeAccelerator(
  accelerator: Accelerator,
  arch: GuestArch,
  binary: string,
  until: AbortSignal = AbortSignal.timeout(PROBE_DEADLINE_MS),
): Promise<Verdict> {
  const folder = await mkdtemp(join(tmpdir(), "smolvm-probe-"));
  const started = performance.now();
  try {
    const rom = join(folder, "probe.rom");
    const probe = PROBES[arch];
    await writeFile(rom, probe.rom());
    const args = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "16"];
    const cpu = accelerator === "tcg" ? probe.emulatedCpu : ["-cpu", "host"];
    const child = spawn(binary, [...args, "-accel", accelerator, ...probe.machine, ...cpu, "-bios", rom], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const kill = (): void => void child.kill("SIGKILL");
    until.addEventListener("abort", kill, { once: true });
    if (until.aborted) kill();
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-2000)));
    const [status, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, by) => resolve([code, by]));
    }).finally(() => until.removeEventListener("abort", kill));
    const took = Math.round(performance.now() - started);
    if (status === probe.success) return { works: true, seen: `a guest ran on ${accelerator} (${took} ms)` };
    const complaint = (stderr.trim().split("\n").at(-1) ?? "").replace(/^\S*qemu-system-\w+: /, "").replace(/\.$/, "");
    if (signal === "SIGKILL" && until.aborted) {
      return { works: false, seen: `${accelerator} opens, but a guest on it hangs (nothing after ${took} ms)` };
    }
    const ending = signal ?? `exit status ${status ?? "?"}`;
    return {
      works: false,
      seen: `QEMU ended with ${ending} on ${accelerator}${complaint === "" ? "" : `: ${complaint}`}`,
    };
  } catch (error) {
    throw new HostError("HOST_TOOL_FAILED", `'${binary}' can't be started.`, {
      hint: "Install it anew with: smolvm setup",
      cause: error,
      details: { binary },
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const PROBES = {
  x86_64: {
    machine: ["-M", "pc", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    emulatedCpu: [] as string[],
    /** isa-debug-exit ends QEMU with (value << 1) | 1, and the ROM writes 0x10. */
    success: 33,
    rom(): Buffer {
      const rom = Buffer.alloc(64 * 1024);
      // cli; lgdt [gdt]; set CR0.PE; far jump into a 32-bit segment; then `mov al,0x10; out 0xf4,al; hlt`, and the table.
      // A ROM that only writes the port from real mode passes on hosts where every real guest hangs.
      rom.write(
        "fa2e660f011630000f20c00c010f22c066ea18000f000800b010e6f4f4ebfd90" +
          "0000000000000000ffff0000009acf000f0020000f00",
        0,
        "hex",
      );
      rom.write("ea000000f0", 0xfff0, "hex"); // the reset vector: jump to F000:0000
      return rom;
    },
  },
  aarch64: {
    machine: ["-M", "virt"],
    emulatedCpu: ["-cpu", "cortex-a57"],
    success: 0,
    rom(): Buffer {
      const rom = Buffer.alloc(16);
      // mov w0, #0x84000008 (PSCI SYSTEM_OFF, Arm DEN 0022); hvc #0; b .
      [0x52800100, 0x72b08000, 0xd4000002, 0x14000000].forEach((word, index) => rom.writeUInt32LE(word, index * 4));
      return rom;
    },
  },
} as const;
