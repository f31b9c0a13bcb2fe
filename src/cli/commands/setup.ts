import { HostError } from "../../errors.js";
import type { SetupPlan } from "../../host/setup.js";
import { defineCommand, type Outcome } from "../command.js";
import { agreedBeforehand, canAsk, confirm, print } from "../terminal.js";

export const setup = defineCommand({
  summary: "Install what machines need from the system",
  description: `Says which programs are missing and which commands install them, then asks. With CI=true set it does
not ask; without a terminal and without --yes it only prints the commands and fails.
Knows apt, dnf, pacman, apk, zypper and brew.`,
  options: {
    yes: { short: "y", summary: "Do not ask" },
    "dry-run": { summary: "Only say what would be done" },
  },
  examples: ["smolvm setup", "smolvm setup --dry-run"],
  async run({ options }, { signal }) {
    const { carryOut, planSetup } = await import("../../host/setup.js");
    const plan = planSetup();
    if (plan.missing.length === 0) {
      print("Nothing is missing.");
      return outcome(plan, false);
    }
    explain(plan);
    if (options["dry-run"]) return outcome(plan, false);
    requireCommands(plan);
    if (!(await agreed(options.yes, plan, signal))) return { ...outcome(plan, false), exitCode: 1 };
    await carryOut(plan, { signal });
    print("Everything that machines need is here.");
    return outcome(plan, true);
  },
});

function explain(plan: SetupPlan): void {
  print("Missing:");
  for (const tool of plan.missing) print(`  ${tool.name}: ${tool.purpose}${tool.required ? "" : " (optional)"}`);
  if (plan.commands.length > 0) print("To install it:");
  for (const command of plan.commands) print(`  ${command.join(" ")}`);
}

function requireCommands(plan: SetupPlan): void {
  if (plan.commands.length > 0) return;
  throw new HostError("HOST_UNSUPPORTED", "smolvm does not know how to install packages on this system.", {
    hint: `Install these programs by hand: ${plan.missing.map((tool) => tool.name).join(", ")}`,
    details: { missing: plan.missing.map((tool) => tool.name) },
  });
}

async function agreed(yes: boolean, plan: SetupPlan, signal: AbortSignal): Promise<boolean> {
  if (agreedBeforehand(yes)) return true;
  if (canAsk()) {
    const packages = plan.commands.length === 1 ? "this command" : "these commands";
    return confirm(`Run ${packages}?`, signal);
  }
  throw new HostError("HOST_TOOL_MISSING", "Programs are missing, and there is no terminal to ask on.", {
    hint: "Run: smolvm setup --yes",
    details: { commands: plan.commands.map((command) => command.join(" ")) },
  });
}

function outcome(plan: SetupPlan, installed: boolean): Outcome {
  return {
    data: {
      missing: plan.missing.map((tool) => tool.name),
      manager: plan.manager?.name ?? null,
      commands: plan.commands.map((command) => command.join(" ")),
      installed,
    },
  };
}
