// A tool for an AI agent: it runs whatever a model wrote, in a machine without a network, and always comes back with an
// answer that the model can read.
import { OperationTimeoutError, SmolVM } from "smolvm";

await using vm = await SmolVM.create({ network: "none" });

async function runShell(script: string): Promise<string> {
  try {
    const { exitCode, signal, stdout, stderr } = await vm.run(script, { timeoutMs: 3000 });
    const ending = signal === null ? `exit status ${exitCode}` : `ended by ${signal}`;
    return [ending, stdout, stderr]
      .map((part) => part.trim())
      .filter((part) => part !== "")
      .join("\n");
  } catch (error) {
    // Everything that the script had started is gone by now; the machine goes on.
    if (error instanceof OperationTimeoutError) return "timed out after 3 s";
    throw error;
  }
}

const attempts = ["echo $((6 * 7))", "cat /etc/shadow-of-nothing", "while true; do :; done", "rm -rf /bin; echo gone"];
for (const script of attempts) {
  console.log(`> ${script}\n${await runShell(script)}\n`);
}
